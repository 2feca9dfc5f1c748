#!/bin/sh
# Starts the back ends on this machine (voicespan stack down ends them), and the speech API in front of them.
set -eu
cd "$(dirname "$0")"
voicespan stack up
set -a
. ./service.env
set +a
exec voicespan run -- uvicorn service:app --port 8010
