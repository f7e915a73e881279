"""The SMTP sandbox: a server that keeps mails and a page that shows them."""
