// Hands an e-mail to `mailqueue intake`, from Node without any package: node examples/event.mjs
//
//   node examples/event.mjs ADDRESS [HOST] [PORT] [TUBE]    (default: 127.0.0.1 11300 mailqueue.intake)
//
// Prints the number of the job. With the same order number it can be repeated: one e-mail is sent.
import { connect } from "node:net";
import { createInterface } from "node:readline";

const [to, host = "127.0.0.1", port = "11300", tube = "mailqueue.intake"] = process.argv.slice(2);

async function putEvent(event) {
  const body = Buffer.from(JSON.stringify(event)); // beanstalkd counts bytes, not characters
  const socket = connect(Number(port), host);
  try {
    const replies = createInterface({ input: socket })[Symbol.asyncIterator]();
    const failed = new Promise((_, reject) => socket.once("error", reject));
    // put PRIORITY DELAY TIME-TO-RUN BYTES
    socket.write(`use ${tube}\r\nput 1024 0 60 ${body.length}\r\n`);
    socket.write(body);
    socket.write("\r\n");
    await Promise.race([replies.next(), failed]); // USING
    const { value = "nothing" } = await Promise.race([replies.next(), failed]);
    const [answer, number] = value.split(" ");
    if (answer !== "INSERTED") throw new Error(`beanstalkd says ${value}`);
    return number;
  } finally {
    socket.destroy();
  }
}

const number = await putEvent({
  email: {
    from: "Shop <shop@example.com>",
    to: [to],
    subject: "Your order 4711 – thank you",
    text: "We are packing it.",
    attachments: [{ filename: "order.txt", content: Buffer.from("A lamp\n").toString("base64") }],
  },
  priority: "high",
  expires_at: new Date(Date.now() + 86_400_000).toISOString(),
  idempotency_key: "order-4711",
});
console.log(number);
