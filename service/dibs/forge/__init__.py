"""Handles events of a forge: a pull request was opened or closed, an issue was labelled.

github.py parses the payloads, repository.py derives the project of a repository, handler.py applies
events with the acts of dibs, deliveries.py remembers earlier deliveries. api/webhooks.py
authenticates the calls.
"""
