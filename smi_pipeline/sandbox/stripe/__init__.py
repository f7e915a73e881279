"""The Stripe sandbox: API, Checkout page, money, events and webhooks."""
