// SPDX-License-Identifier: Apache-2.0
// A miner that says its line in two pieces before the handshake is over: tls_early.js ADDRESS PORT.
// Node.js hands the first one to OpenSSL again until that takes it. Exit 0 if anything is answered.
"use strict";
const tls = require("tls");

const [host, port] = process.argv.slice(2);
const socket = tls.connect({ host, port: Number(port), rejectUnauthorized: false });

socket.write('{"id": 1, "method": "mining.sub');
socket.write('scribe", "params": ["test/1.0"]}\n');
socket.on("data", () => process.exit(0));
socket.on("error", (err) => {
  console.error(err.message);
  process.exit(1);
});
socket.on("close", () => process.exit(1));
