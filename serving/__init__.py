"""Endpoints: published generators that answer over HTTP."""
