// Follows every event, through restarts of the service: node follow.js QUERIES [AFTER_POSITION]

import {setTimeout as pause} from 'node:timers/promises';

import {UNAVAILABLE, connect, unpacked} from './tidemark.js';

const [address, after_position = '0'] = process.argv.slice(2);
const log = connect('EventLogService', address);

// What a consumer keeps where it keeps the effects of the events: it is where to go on.
let checkpoint = {position: after_position, digest: Buffer.alloc(0)};

for (;;) {
  const stream = log.Subscribe({
    after_position: checkpoint.position,
    after_digest: checkpoint.digest,
  });
  try {
    for await (const response of stream) {
      for (const event of response.events ?? []) {
        const {type, ...what} = unpacked(event.payload);
        const name = type.split('.').pop();
        console.log(`${event.position} ${event.aggregate_id} ${name} ${JSON.stringify(what)}`);
      }
      checkpoint = response.checkpoint;
    }
  } catch (error) {
    // Anything else, such as DATA_LOSS, is not mended by trying again.
    if (error.code !== UNAVAILABLE) throw error;
    console.error(`${error.details}; going on after position ${checkpoint.position}`);
  }
  await pause(200 + 200 * Math.random());
}
