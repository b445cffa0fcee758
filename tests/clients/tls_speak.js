// SPDX-License-Identifier: Apache-2.0
// A client of Node's tls: node tls_speak.js HOST PORT UNTIL PIECES NAME TEXT
// Sends TEXT in PIECES writes, copies what comes back to stdout, exits with 0 once UNTIL was in it and
// with 1 if the connection ends before. NAME is asked for in the handshake unless it is empty.
"use strict";
const tls = require("tls");
const [host, port, until, pieces, servername, text] = process.argv.slice(2);
const options = { host, port: Number(port), rejectUnauthorized: false, ...(servername && { servername }) };
let answers = "";

function end(code, why) {
  if (why) console.error("tls_speak: " + why);
  process.exit(code);
}

const socket = tls.connect(options, () => {
  for (let done = 0, i = 1; i <= Number(pieces); i++) {
    const next = Math.floor((text.length * i) / Number(pieces));
    if (next > done) socket.write(text.slice(done, next));
    done = next;
  }
});
socket.on("data", (data) => {
  answers += data;
  process.stdout.write(data, () => answers.includes(until) && end(0));
});
socket.on("error", (error) => end(1, error.message));
socket.on("close", () => end(1, "the connection ended"));
