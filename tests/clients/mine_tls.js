// SPDX-License-Identifier: Apache-2.0
// A real client at a pool behind TLS: node mine_tls.js CLIENT HOST PORT
//   stratum-client  has no option for TLS: it is given a socket that speaks it
//   coin-hive       a browser's miner and its proxy, both here; the proxy's own option is used
// Prints a line for each thing that happens: work, share, closed, nothing. Exits with 0 after a share,
// else with 1. Nothing is hashed: shares are made up. The account is what the environment has as ACCOUNT.
"use strict";
const { EventEmitter } = require("events");
const net = require("net");
const tls = require("tls");
const [client, host, port] = process.argv.slice(2);
const PATIENCE_MS = 50000;
// Has the shape of an address of Monero's, and is none.
const ACCOUNT = process.env.ACCOUNT || "4" + "8Bv".repeat(31) + "7";

function say(word, code) {
  process.stdout.write(word + "\n", () => code !== undefined && process.exit(code));
}

// What stratum-client uses of a socket, over TLS.
class TlsBackedSocket extends EventEmitter {
  setEncoding(encoding) {
    this.encoding = encoding;
  }
  connect(to, address, connected) {
    this.socket = tls.connect({ host: address, port: to, rejectUnauthorized: false }, connected);
    this.socket.setEncoding(this.encoding);
    for (const event of ["data", "error", "close"])
      this.socket.on(event, (value) => this.emit(event, value));
  }
  write(data) {
    this.socket.write(data);
  }
  end() {
    this.socket.end();
  }
  destroy() {
    this.socket.destroy();
  }
}

function stratum() {
  const { Socket } = net;
  net.Socket = TlsBackedSocket;
  const start = require("stratum-client");
  net.Socket = Socket;
  const miner = start({
    server: host,
    port: Number(port),
    worker: "account.rig7",
    password: "x",
    autoReconnectOnError: false,
    onNewMiningWork: () => {
      say("work");
      miner.submit(["account.rig7", "1f", "00", "49", "b2957c02"]);
    },
    onSubmitWorkSuccess: () => say("share", 0),
    onSubmitWorkFail: () => say("share", 0),
    onError: () => say("closed", 1),
    onClose: () => say("closed", 1),
  });
}

function coinHive() {
  // Its default is to mine a little for its authors: at a host that only exists outside.
  const options = { host, port: Number(port), pass: "x", log: false, tls: true, donations: [] };
  require("coin-hive-stratum")(options).listen({ host: "127.0.0.1", port: 8892 });
  const WebSocket = require("ws");
  const socket = new WebSocket("ws://127.0.0.1:8892/proxy");
  const tell = (type, params) => socket.send(JSON.stringify({ type, params }));
  socket.on("open", () => tell("auth", { site_key: ACCOUNT, type: "anonymous" }));
  socket.on("message", (message) => {
    const { type } = JSON.parse(message);
    if (type === "job") {
      say("work");
      tell("submit", { job_id: "Xq1", nonce: "0100a0ff", result: "5f".repeat(32) });
    }
    if (type === "hash_accepted") say("share", 0);
  });
  socket.on("error", () => say("closed", 1));
  socket.on("close", () => say("closed", 1));
}

if (client === "stratum-client") stratum();
if (client === "coin-hive") coinHive();
setTimeout(() => say("nothing", 1), PATIENCE_MS);
