// Sends e-mails with Resend's own SDK: only the base URL is another one.
//
//   npm install resend
//   mailqueue http &
//   RESEND_BASE_URL=http://127.0.0.1:8080 RESEND_API_KEY=mq_... node node_resend.mjs bob@example.org
//
// The key comes from `mailqueue key new NAME --scope send,read,operate`. Without http.keys any will do.
import { Resend } from "resend";

const resend = new Resend(process.env.RESEND_API_KEY);
const to = process.argv[2];

function unwrap({ data, error }) {
  if (error) throw new Error(`${error.statusCode} ${error.name}: ${error.message}`);
  return data;
}

// A repeated request with the same key sends nothing twice.
const invoice = unwrap(
  await resend.emails.send(
    {
      from: "Ann <ann@example.com>",
      to,
      subject: "Your invoice",
      html: "<p>Thank you for your order.</p>",
      attachments: [{ filename: "invoice.txt", content: Buffer.from("100 EUR\n") }],
      tags: [{ name: "category", value: "invoice" }],
    },
    { idempotencyKey: "invoice-4711" },
  ),
);
console.log("stored", invoice.id);

const reminder = unwrap(
  await resend.emails.send({
    from: "ann@example.com",
    to,
    subject: "A reminder",
    text: "Your invoice is due.",
    scheduledAt: new Date(Date.now() + 14 * 86_400_000).toISOString(),
  }),
);
unwrap(await resend.emails.cancel(reminder.id));

for (const { id } of [invoice, reminder]) {
  const email = unwrap(await resend.emails.get(id));
  console.log(email.subject, "is", email.last_event);
}
