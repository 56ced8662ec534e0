// What every program here needs: clients made from the .proto files, and errors decoded.

import {readFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const PROTOS = fileURLToPath(new URL('../../protos/', import.meta.url));
// Google's, of which gRPC's rich errors are made; `make proto` puts them there.
const GOOGLE_PROTOS = fileURLToPath(new URL('../../build/deps/', import.meta.url));

const definition = protoLoader.loadSync(
  [
    'tidemark/v1/event.proto',
    'tidemark/v1/query.proto',
    'tidemark/v1/ship.proto',
    'tidemark/v1/user.proto',
    'google/rpc/status.proto',
    'google/rpc/error_details.proto',
  ],
  // A position may be larger than what a number of JavaScript holds exactly: longs are texts.
  {includeDirs: [PROTOS, GOOGLE_PROTOS], keepCase: true, longs: String, enums: String, oneofs: true},
);

// Every service and message of the contract.
export const tidemark = grpc.loadPackageDefinition(definition).tidemark.v1;

const OPTIONS = {
  // Retries where nothing took effect, or where a command_id makes them safe.
  'grpc.service_config': readFileSync(`${PROTOS}tidemark/v1/service_config.json`, 'utf8'),
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  // A connection that died silently is noticed within 15 s.
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
  'grpc.enable_http_proxy': 0,
};

// A client of a service, such as 'ShipCommandService', at HOST:PORT.
export function connect(service, address) {
  return new tidemark[service](address, grpc.credentials.createInsecure(), OPTIONS);
}

// Calls an RPC that has one answer. Every call has a deadline: without one it would wait for ever.
export function call(client, method, request, {seconds = 10} = {}) {
  return new Promise((resolve, reject) => {
    client[method](request, {deadline: Date.now() + seconds * 1000}, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

// The message in a google.protobuf.Any, such as the payload of an event.
export function unpacked({type_url, value}) {
  const type = type_url.split('/').pop();
  return {type, ...definition[type].deserialize(value)};
}

// What an error says to programs: its reason, what goes with it, and the fields that are wrong.
export function failure(error) {
  const [encoded] = error.metadata.get('grpc-status-details-bin');
  const status = encoded ? definition['google.rpc.Status'].deserialize(encoded) : {details: []};
  const details = Object.fromEntries(
    (status.details ?? []).map(unpacked).map((detail) => [detail.type, detail]),
  );
  return {
    code: grpc.status[error.code],
    message: error.details,
    reason: details['google.rpc.ErrorInfo']?.reason,
    metadata: details['google.rpc.ErrorInfo']?.metadata,
    violations: details['google.rpc.BadRequest']?.field_violations,
  };
}

export const UNAVAILABLE = grpc.status.UNAVAILABLE;
