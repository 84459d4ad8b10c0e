// The runtime's contract in plain Node.js: GET /ping and POST /invocations on 0.0.0.0:$PORT.
"use strict";

const http = require("node:http");
const { setTimeout: pause } = require("node:timers/promises");

const SESSION_HEADER = "x-amzn-bedrock-agentcore-runtime-session-id";
const MAX_BODY = 100_000_000;
const healthySince = Math.floor(Date.now() / 1000);

async function readJson(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BODY) throw Object.assign(new Error("Payload too large"), { status: 413 });
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString("utf8"));
  } catch (error) {
    throw Object.assign(new Error(`Invalid JSON: ${error.message}`), { status: 400 });
  }
}

function sendJson(response, status, value) {
  const body = Buffer.from(JSON.stringify(value));
  response.writeHead(status, { "content-type": "application/json", "content-length": body.length });
  response.end(body);
}

// One event per word. A client that goes away ends the loop at its next write.
async function stream(response, payload) {
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" });
  response.flushHeaders();
  for (const word of String(payload.prompt ?? "Hello, world!").split(/\s+/)) {
    if (response.destroyed) return;
    response.write(`data: ${JSON.stringify({ text: `${word} ` })}\n\n`);
    await pause(Number(payload.delay ?? 0) * 1000);
  }
  response.end();
}

async function invoke(request, response) {
  const payload = await readJson(request);
  if ((request.headers.accept ?? "").includes("text/event-stream")) {
    await stream(response, payload);
  } else {
    sendJson(response, 200, { echo: payload, session_id: request.headers[SESSION_HEADER] ?? null, node: process.version });
  }
}

const server = http.createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://agent");
  if (request.method === "GET" && pathname === "/ping") {
    sendJson(response, 200, { status: "Healthy", time_of_last_update: healthySince });
  } else if (request.method === "POST" && pathname === "/invocations") {
    invoke(request, response).catch((error) => {
      if (response.headersSent) response.destroy(); // a broken answer must not look complete
      else sendJson(response, error.status ?? 500, { error: error.message });
    });
  } else {
    request.resume();
    sendJson(response, 404, { error: "Not Found" });
  }
});

// The runtime keeps its connection between invocations; Node's default of 5 s would close it under a request's feet.
server.keepAliveTimeout = 300_000;
server.listen(Number(process.env.PORT ?? 8080), "0.0.0.0");

process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
