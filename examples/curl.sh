#!/bin/sh
# What an endpoint is asked with curl, into the folder where you are:
#
#     RAYGEN_TOKEN=rg_… sh examples/curl.sh http://127.0.0.1:8000
set -eu
url=${1:-http://127.0.0.1:8000}

# What may pass (no connection, 408, 429, 502, 503, 504) is asked again, after as long as the endpoint says. Every request may
# be: the same question has the same answer.
ask() {
    path=$1
    shift
    curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused "$url$path" \
        --header "Authorization: Bearer ${RAYGEN_TOKEN:-}" --header "Content-Type: application/json" "$@"
}

echo "== Does it answer?"
ask /healthz
echo
echo "== What is served, and how good it is"
ask /v1/models --output models.json
cat models.json
echo

echo "== Four sevens: the rows 0 to 3 of the dataset of seed 1, as one picture, as files, and as JSON"
seven='{"model": "digits", "rows": 4, "seed": 1, "condition": 7}'
ask /v1/generate --data "$seven" --header "Accept: image/png" --output sevens.png
ask /v1/generate --data "$seven" --header "Accept: application/zip" --output sevens.zip
ask /v1/generate --data "$seven" --output sevens.json

echo "== A thousand rows, with the types of the training data"
thousand='{"model": "digits", "rows": 1000, "seed": 1}'
ask /v1/generate --data "$thousand" --header "Accept: application/vnd.apache.parquet" --output digits.parquet
ask /v1/generate --data "$thousand" --header "Accept: application/vnd.apache.arrow.stream" --output digits.arrow \
    --dump-header headers.txt

echo "== The next thousand, of the same generator or not at all: whoever has promoted another meanwhile, 409 says so"
digest=$(sed -n 's/^raygen-digest: \([0-9a-f]*\).*/\1/p' headers.txt)
ask /v1/generate --data "{\"model\": \"digits\", \"rows\": 1000, \"start\": 1000, \"seed\": 1, \"digest\": \"$digest\"}" \
    --header "Accept: application/vnd.apache.arrow.stream" --output more.arrow

echo "== From the row 0 to the row 1 in nine steps, of models that have a latent space"
if grep -q '"interpolates":true' models.json; then
    ask /v1/interpolate --data '{"model": "digits", "between": [0, 1], "steps": 9, "seed": 1}' \
        --header "Accept: image/png" --output between.png
fi

echo "== The shape of OpenAI's API"
ask /v1/images/generations --data '{"model": "digits", "prompt": "7", "n": 2}' --output images.json

echo "== People aged 18 to 25 who earn much, where the model adult is served"
if grep -q '"id":"adult"' models.json; then
    ask /v1/generate --data '{"model": "adult", "rows": 3, "seed": 1, "where": {"age": [18, 25], "income": ">50K"}}'
    echo
fi

echo "== What it can be asked: every operation, problem and example"
ask /openapi.json --output openapi.json
