// Hears what becomes of e-mails: verifies each callback, and does its work once.
//
//   npm install resend
//   CALLBACK_SECRET=whsec_... node callback_receiver.mjs 8000
//
// Resend's SDK verifies, since the events have its shape; npm's standardwebhooks and svix do as well.
// For https put it behind the web server that you have.
import { createServer } from "node:http";
import { Resend } from "resend";

const { webhooks } = new Resend("no key is needed to verify");
const webhookSecret = process.env.CALLBACK_SECRET;
const seen = new Set(); // an application keeps the ids in its database

function handle({ type, data }) {
  console.log(type, data.email_id, data.recipient ?? "all recipients");
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf-8"); // as it came: not parsed and written anew
}

const server = createServer(async (request, response) => {
  const id = request.headers["webhook-id"];
  const headers = {
    id,
    timestamp: request.headers["webhook-timestamp"],
    signature: request.headers["webhook-signature"],
  };
  let event;
  try {
    event = webhooks.verify({ payload: await read(request), headers, webhookSecret });
  } catch {
    response.writeHead(401).end();
    return;
  }
  // The same event may come again, with the same id.
  if (!seen.has(id)) {
    handle(event);
    seen.add(id);
  }
  response.writeHead(204).end(); // anything in 2xx ends it; 410 too, for good
});

server.listen(Number(process.argv[2]), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
