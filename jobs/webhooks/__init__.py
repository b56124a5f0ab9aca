"""Webhook endpoints, the routing of events to them, and deliveries."""
