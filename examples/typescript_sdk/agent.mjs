// The AWS SDK for TypeScript, unmodified: an answer, a stream of events, and a WebSocket that echoes.
import { BedrockAgentCoreApp } from "bedrock-agentcore/runtime";

async function* words(prompt) {
  for (const word of prompt.split(/\s+/)) yield { data: { text: word } };
}

const app = new BedrockAgentCoreApp({
  invocationHandler: {
    process: async (payload, context) =>
      payload.stream
        ? words(payload.prompt ?? "Hello, world!")
        : { echo: payload, session_id: context.sessionId, headers: context.headers },
  },
  websocketHandler: (socket) => {
    socket.on("message", (message, isBinary) => socket.send(message, { binary: isBinary }));
  },
});

app.run({ port: Number(process.env.PORT ?? 8080) });
