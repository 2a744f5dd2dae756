#!/bin/sh
# One chat answer with curl. Start a server first: npm start
curl --silent --show-error "${OPENAI_BASE_URL:-http://127.0.0.1:8000/v1}/chat/completions" \
  --header 'Content-Type: application/json' \
  --data '{
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0
  }'
