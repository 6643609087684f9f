#!/usr/bin/env bash
# Build and push the worker image, then build a dataset with it, with the sizes in options.txt.
set -euo pipefail
if [[ $# -lt 5 ]]; then
  echo "usage: $0 IMAGE PROJECT REGION MANUAL_DIR DATA_DIR [OPTION ...]" >&2
  echo "example: $0 europe-docker.pkg.dev/my-project/images/laser-jnd:1 my-project europe-west4" \
    "gs://my-bucket/VideoSet gs://my-bucket/data --config 1080p" >&2
  exit 2
fi
image=$1 project=$2 region=$3 manual_dir=$4 data_dir=$5
shift 5
here=$(cd "$(dirname "$0")" && pwd)

docker build --platform linux/amd64 --tag "$image" --file "$here/Dockerfile" "$here/../.."
docker push "$image"

options=()
while read -r line; do
  [[ -z $line || $line == "#"* ]] || options+=("$line")
done < "$here/options.txt"
exec laser-jnd build videoset_jnd --manual-dir "$manual_dir" --data-dir "$data_dir" \
  --runner DataflowRunner --project "$project" --region "$region" \
  --sdk_container_image "$image" "${options[@]}" "$@"
