// Calls one RPC: node call.js HOST:PORT SERVICE METHOD REQUEST_AS_JSON

import {call, connect, failure} from './tidemark.js';

const [address, service, method, request] = process.argv.slice(2);
const client = connect(service, address);
try {
  console.log(JSON.stringify(await call(client, method, JSON.parse(request))));
} catch (error) {
  if (error.metadata === undefined) throw error;
  console.error(JSON.stringify(failure(error)));
  process.exitCode = 1;
} finally {
  client.close();
}
