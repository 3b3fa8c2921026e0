"""its-proxy before three real vLLM servers: roll-over, lost servers, an ensemble, many clients."""
