// A receiver for Retouch's webhooks. It needs only Node's standard library.
//
//     node webhook_receiver.mjs whsec_... [port]
//
// It verifies the signature, answers immediately, and processes each event once, even if it is delivered several times.

import { createHmac, timingSafeEqual } from "node:crypto";
import { realpathSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

const TOLERANCE_S = 300;
// A digest of a hundred jobs with long prompts can have some megabytes.
const MAX_BYTES = 4 * 1024 * 1024;

/** True if the request has a valid, recent signature of Retouch. `body` is the unchanged Buffer of the request. */
export function verify(secret, headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  // After a rotation, there is one signature per secret. One valid signature is enough.
  return (headers["webhook-signature"] ?? "").split(" ").some((part) => {
    const [version, encoded] = part.split(",");
    const signature = Buffer.from(encoded ?? "", "base64");
    return version === "v1" && signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

/** Read the body as a Buffer. Throws if the body is too large or the client disconnects. */
async function readBody(request) {
  const chunks = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += chunk.length;
    // The request had no content-length. The exception closes the connection.
    if (bytes > MAX_BYTES) throw new Error("the body is too large");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function main([secret, port = "8787"]) {
  const receivedIds = new Set();

  async function receive(request, response) {
    if (Number(request.headers["content-length"] ?? 0) > MAX_BYTES) {
      response.writeHead(413, { connection: "close" }).end();
      return;
    }
    const body = await readBody(request);
    if (!verify(secret, request.headers, body)) {
      response.writeHead(401).end();
      return;
    }
    response.writeHead(204).end();
    const id = request.headers["webhook-id"];
    if (receivedIds.has(id)) return;
    receivedIds.add(id);
    const event = JSON.parse(body);
    console.log(id, event.type, event.data.id ?? "");
  }

  const server = createServer((request, response) => {
    // A client that disconnects, or a body that is no event, must not stop the server.
    receive(request, response).catch((error) => {
      console.error(`invalid request: ${error.message}`);
      if (response.headersSent) return;
      response.writeHead(400, { connection: "close" }).end();
    });
  });
  server.listen(Number(port), "127.0.0.1", () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}/`);
  });
}

// Only if run as a script. The path of a file and its URL can differ, for example by spaces and links.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main(process.argv.slice(2));
