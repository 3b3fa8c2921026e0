"""The vote before a real vLLM: accuracy, tokens by the server's own counter, and how soon it falls idle."""
