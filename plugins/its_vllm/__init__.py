"""its-proxy inside vLLM: `vllm serve CHECKPOINT --middleware its_vllm.Middleware`."""

from its_vllm.middleware import Middleware

__all__ = ["Middleware"]
