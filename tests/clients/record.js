// SPDX-License-Identifier: Apache-2.0
// Lets real clients talk to a pool made of fixed answers, on loopback, and prints what both sides
// said as JSON: {"stratum-client": {client, server}, "coin-hive": ..., "coin-hive-pool": ...}, hex.
// Nothing is hashed: shares are made up. Runs in a network namespace of its own.
"use strict";
const net = require("net");
const WebSocket = require("ws");
const createProxy = require("coin-hive-stratum");
const stratumClient = require("stratum-client");

const HASH = "5f".repeat(32);
const JOB = { blob: "10".repeat(76), job_id: "Xq1", target: "b88d0600", id: "s1" };
const V1_JOB = ["1f", HASH, "01", "02", [], "20000000", "1d00ffff", "49", true];
const talks = {};

// A server that records both sides of its one connection; serve(socket) gives it its behaviour.
function recorded(name, port, serve) {
  talks[name] = { client: [], server: [] };
  const server = net.createServer((socket) => {
    socket.on("error", () => {});
    const write = (data) => {
      talks[name].server.push(Buffer.from(data));
      socket.write(data);
    };
    serve(socket, write, (data) => talks[name].client.push(data));
  });
  return new Promise((done) => server.listen(port, "127.0.0.1", done));
}

function pool(name, port, answers) {
  return recorded(name, port, (socket, write, hear) => {
    let rest = "";
    socket.on("data", (data) => {
      hear(data);
      const lines = (rest + data).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const message = JSON.parse(line);
        for (const answer of answers(message)) write(JSON.stringify(answer) + "\n");
      }
    });
  });
}

function relay(name, port, to) {
  return recorded(name, port, (socket, write, hear) => {
    const onward = net.connect(to, "127.0.0.1");
    onward.on("error", () => {});
    onward.on("data", write);
    socket.on("data", (data) => {
      hear(data);
      onward.write(data);
    });
  });
}

function v1({ id, method }) {
  if (method === "mining.subscribe")
    return [{ id, result: [[["mining.notify", "ae"]], "08000002", 4], error: null }];
  const told = { id, result: true, error: null };
  if (method !== "mining.authorize") return [told];
  return [told, { id: null, method: "mining.notify", params: V1_JOB }];
}

function cryptonote({ id, method }) {
  const result = method === "login" ? { id: "s1", job: JOB, status: "OK" } : { status: "OK" };
  return [{ id, jsonrpc: "2.0", error: null, result }];
}

async function main() {
  await pool("stratum-client", 3333, v1);
  await pool("coin-hive-pool", 4444, cryptonote);
  // Its default is to mine a little for its authors: at a host that only exists outside.
  const options = { host: "127.0.0.1", port: 4444, pass: "hunter2", log: false, donations: [] };
  createProxy(options).listen({ host: "127.0.0.1", port: 8892 });
  await relay("coin-hive", 8893, 8892);

  const submitted = new Promise((done) => {
    const miner = stratumClient({
      server: "127.0.0.1",
      port: 3333,
      worker: "account.rig7",
      password: "hunter2",
      autoReconnectOnError: false,
      onNewMiningWork: () => miner.submit(["account.rig7", "1f", "00", "49", "b2957c02"]),
      onSubmitWorkSuccess: done,
    });
  });
  const accepted = new Promise((done) => {
    const socket = new WebSocket("ws://127.0.0.1:8893/proxy");
    const say = (type, params) => socket.send(JSON.stringify({ type, params }));
    socket.on("open", () => say("auth", { site_key: "account", type: "anonymous" }));
    socket.on("message", (text) => {
      const { type } = JSON.parse(text);
      if (type === "job") say("submit", { job_id: "Xq1", nonce: "0100a0ff", result: HASH });
      if (type === "hash_accepted") done();
    });
  });
  await Promise.all([submitted, accepted]);
  const hex = (parts) => Buffer.concat(parts).toString("hex");
  for (const talk of Object.values(talks))
    Object.assign(talk, { client: hex(talk.client), server: hex(talk.server) });
  process.stdout.write(JSON.stringify(talks), () => process.exit(0));
}

main();
