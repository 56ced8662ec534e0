// A ship's voyage: node voyage.js COMMANDS QUERIES, each HOST:PORT.

import {randomUUID} from 'node:crypto';

import {call, connect, failure, unpacked} from './tidemark.js';

const [commandsAddress, queriesAddress] = process.argv.slice(2);
const commands = connect('ShipCommandService', commandsAddress);
const queries = connect('ShipQueryService', queriesAddress);
const replay = connect('ReplayService', queriesAddress);

const ship_id = randomUUID();
let position = '0';

// A command_id of its own makes it safe to send a command again, which the retry policy does.
async function execute(method, command) {
  const context = {command_id: randomUUID()};
  const receipt = await call(commands, method, {ship_id, ...command, context});
  position = receipt.position;
  console.log(`${method}: version ${receipt.version}`);
}

await execute('Register', {name: 'Aurora'});
await execute('Dock', {port: 'Oslo'});
await execute('Load', {item: 'silk', quantity: 30});

try {
  await execute('Unload', {item: 'silk', quantity: 31});
} catch (error) {
  const {code, reason, message, metadata} = failure(error);
  console.log(`refused: ${code}, ${reason}: ${message}; aboard: ${metadata.aboard}`);
}
try {
  await execute('Dock', {port: ''});
} catch (error) {
  const [{field, description}] = failure(error).violations;
  console.log(`refused: ${field} ${description}`);
}

// min_position: what was done above is in the answer.
const {ship} = await call(queries, 'GetShip', {ship_id, min_position: position});
console.log(`now: ${ship.status} in ${ship.current_port}, ${JSON.stringify(ship.cargo)}`);

const past = await call(queries, 'GetShip', {ship_id, as_of: {version: 1}});
console.log(`as of version 1: ${past.ship.status}`);

const request = {aggregate_type: 'ship', aggregate_id: ship_id, include_state: true};
for await (const {event, state} of replay.Replay(request, {deadline: Date.now() + 10_000})) {
  const {type, ...what} = unpacked(event.payload);
  console.log(`${event.version}: ${type} ${JSON.stringify(what)}, then ${unpacked(state).status}`);
}

for (const client of [commands, queries, replay]) client.close();
