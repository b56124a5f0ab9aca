// A receiver of Retouch's webhooks, with nothing but Node's standard library.
//
//     node webhook_receiver.mjs whsec_... [port]
//
// It checks the signature, answers at once, and tells each event once however often it comes.

import { createHmac, timingSafeEqual } from "node:crypto";
import { realpathSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

const TOLERANCE_S = 300;
// A digest of a hundred jobs with long prompts has megabytes.
const MOST_BYTES = 4 * 1024 * 1024;

/** Whether a request comes from Retouch, unchanged and not long ago. `body` is the Buffer that came. */
export function verify(secret, headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  // After a rotation there is a signature for each secret; one that fits is enough.
  return (headers["webhook-signature"] ?? "").split(" ").some((part) => {
    const [version, text] = part.split(",");
    const signature = Buffer.from(text ?? "", "base64");
    return version === "v1" && signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

/** The body of a request as a Buffer. It throws where the body is too large, or the client goes away before its end. */
async function read(request) {
  const parts = [];
  let bytes = 0;
  for await (const part of request) {
    bytes += part.length;
    // No length was told, else the body would not be read at all: leaving the loop ends the connection.
    if (bytes > MOST_BYTES) throw new Error("its body is too large");
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function main([secret, port = "8787"]) {
  const seen = new Set();

  async function take(request, response) {
    if (Number(request.headers["content-length"] ?? 0) > MOST_BYTES) {
      response.writeHead(413, { connection: "close" }).end();
      return;
    }
    const body = await read(request);
    if (!verify(secret, request.headers, body)) {
      response.writeHead(401).end();
      return;
    }
    response.writeHead(204).end();
    const id = request.headers["webhook-id"];
    if (seen.has(id)) return;
    seen.add(id);
    const event = JSON.parse(body);
    console.log(id, event.type, event.data.id ?? "");
  }

  const server = createServer((request, response) => {
    // A client that goes away in the middle, and a body that is no event, must not end the server.
    take(request, response).catch((error) => {
      console.error(`a request was not taken: ${error.message}`);
      if (response.headersSent) return;
      response.writeHead(400, { connection: "close" }).end();
    });
  });
  server.listen(Number(port), "127.0.0.1", () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}/`);
  });
}

// Run, not imported. A path and its URL differ by more than a prefix: spaces, links.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) main(process.argv.slice(2));
