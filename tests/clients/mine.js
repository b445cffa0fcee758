// SPDX-License-Identifier: Apache-2.0
// A real client at a pool: node mine.js CLIENT HOST PORT [LISTEN-HOST LISTEN-PORT]
//   stratum-client   mines at a pool that speaks Stratum v1
//   coin-hive        a browser's miner and its proxy, both here; the proxy mines at a CryptoNote pool
//   browser          a browser's miner alone; HOST is the proxy
//   proxy            the proxy alone, listening; HOST is the pool
// Prints a line for each thing that happens: work, share, closed, nothing. Nothing is hashed: shares are
// made up. The CryptoNote account is a wallet, or what the environment has as ACCOUNT.
"use strict";
const [client, host, port, ...listen] = process.argv.slice(2);
const PATIENCE_MS = 60000;
// Has the shape of an address of Monero's, and is none.
const ACCOUNT = process.env.ACCOUNT || "4" + "8Bv".repeat(31) + "7";

function say(word, isLast) {
  process.stdout.write(word + "\n", () => isLast && process.exit(0));
}

function stratum() {
  const miner = require("stratum-client")({
    server: host,
    port: Number(port),
    worker: "account.rig7",
    password: "x",
    autoReconnectOnError: false,
    onNewMiningWork: () => {
      say("work");
      miner.submit(["account.rig7", "1f", "00", "49", "b2957c02"]);
    },
    onSubmitWorkSuccess: () => say("share", true),
    onSubmitWorkFail: () => say("share", true),
    onError: () => say("closed", true),
    onClose: () => say("closed", true),
  });
}

function serve(address, number) {
  // Its default is to mine a little for its authors: at a host that only exists outside.
  const options = { host, port: Number(port), pass: "x", log: false, donations: [] };
  require("coin-hive-stratum")(options).listen({ host: address, port: Number(number) });
}

function browse(address, number) {
  const WebSocket = require("ws");
  const socket = new WebSocket(`ws://${address}:${number}/proxy`);
  const tell = (type, params) => socket.send(JSON.stringify({ type, params }));
  socket.on("open", () => tell("auth", { site_key: ACCOUNT, type: "anonymous" }));
  socket.on("message", (text) => {
    const { type } = JSON.parse(text);
    if (type === "job") {
      say("work");
      tell("submit", { job_id: "Xq1", nonce: "0100a0ff", result: "5f".repeat(32) });
    }
    if (type === "hash_accepted") say("share", true);
  });
  socket.on("error", () => say("closed", true));
  socket.on("close", () => say("closed", true));
}

if (client === "stratum-client") stratum();
if (client === "proxy" || client === "coin-hive") serve(...(listen.length ? listen : ["127.0.0.1", 8892]));
if (client === "coin-hive") browse("127.0.0.1", 8892);
if (client === "browser") browse(host, port);
if (client !== "proxy") setTimeout(() => say("nothing", true), PATIENCE_MS);
