"""its-proxy inside vLLM: `vllm serve CHECKPOINT --middleware its_vllm.Middleware`."""
