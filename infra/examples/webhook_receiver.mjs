// A receiver of Retouch's webhooks, with nothing but Node's standard library.
//
//     node webhook_receiver.mjs whsec_... [port]
//
// It checks the signature, answers at once, and tells each event once however often it comes.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const TOLERANCE_S = 300;

/** Whether a request comes from Retouch, unchanged and not long ago. `body` is the Buffer that came. */
export function verify(secret, headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  // After a rotation there are two signatures, one for each secret; one that fits is enough.
  return (headers["webhook-signature"] ?? "").split(" ").some((part) => {
    const [version, text] = part.split(",");
    const signature = Buffer.from(text ?? "", "base64");
    return version === "v1" && signature.length === expected.length && timingSafeEqual(signature, expected);
  });
}

function main([secret, port = "8787"]) {
  const seen = new Set();
  const server = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = Buffer.concat(parts);
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
  });
  server.listen(Number(port), "127.0.0.1", () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}/`);
  });
}

if (process.argv[1] === new URL(import.meta.url).pathname) main(process.argv.slice(2));
