"""What a forge tells: a pull request was opened or closed, an issue was labelled.

github.py reads its payloads, repository.py finds the project of a repository, handler.py does with
the acts of dibs what they call for, deliveries.py remembers what came before. api/webhooks.py lets
them in.
"""
