"""An application that sends: one e-mail with an idempotency key, one inside a transaction."""

from mailqueue import EmailDict, Producer

producer = Producer("config.json")


def reset_password(address: str, token: str) -> str:
    """Called twice with the same token, it sends one e-mail and returns the same id."""
    link = f"https://shop.example.com/reset/{token}"
    return producer.send(
        {"from": "Shop <shop@example.com>", "to": address, "subject": "Reset", "text": link},
        priority="high",
        idempotency_key=f"reset-{token}",
    )


def place_order(address: str, article: str) -> str:
    """The order and its e-mail are stored together, or neither is."""
    email: EmailDict = {
        "from": "Shop <shop@example.com>",
        "to": address,
        "subject": "Your order",
        "text": f"Thank you: {article}",
    }
    with producer.client.start_session() as session, session.start_transaction():
        producer.client["shop"]["orders"].insert_one({"article": article}, session=session)
        email_id = producer.send(email, session=session)
    producer.announce([email_id])  # the commit is over: no need to wait for the sweeper
    return email_id
