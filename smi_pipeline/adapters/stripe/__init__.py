"""Stripe's API: payments, refunds, events, and how its errors are classified."""
