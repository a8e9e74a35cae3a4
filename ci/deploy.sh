#!/bin/sh
# Deploy a model with ModelService and wait until its rollout is ready. POSIX sh and grpcurl; see --help.
set -eu

usage() {
    cat <<'END'
usage: deploy.sh [OPTION ...] SERVER REQUEST [-- GRPCURL_OPTION ...]

Deploy a model with ModelService, and wait until its rollout is ready or has failed.

  SERVER                 host:port
  REQUEST                a file with the DeployRequest as JSON; - reads standard input. A request_id
                         in it comes before --request-id
  --request-id ID        1 to 64 of A-Z, a-z, 0-9, ".", "_" and "-". Repeating an id repeats no
                         rollout. Default on GitHub: github-$GITHUB_RUN_ID-$GITHUB_RUN_ATTEMPT,
                         on GitLab: gitlab-$CI_JOB_ID; elsewhere it is required
  --rollback-on-failure  if the rollout fails, go back to the last revision that was ready, and
                         wait for it, for --timeout anew; =true and =false are accepted too.
                         Undecided at --timeout it goes on: keep that above its ready_timeout
  --timeout SECONDS      give up after this time in all. 0, the default: 120 s more than the rollout
                         has until it has failed, which is its ready_timeout, else 600 s
  --patience SECONDS     give up when no server has answered for this time; 60 by default
  -- GRPCURL_OPTION ...  options for grpcurl: -plaintext, -cacert FILE, -H 'name: value', ...
  GRPCURL_OPTIONS        a variable with more of them, one argument a line

Each change of the state is printed to standard output. Warnings about the request go to standard
error, and so do errors as grpcurl prints them, with the reason and the remedy of a failed rollout
last. While the server is away, or a proxy cuts the connection, the same call is made again. Ctrl-C
leaves the rollout alone.

Exit codes:
  0    the rollout is ready (with "validate_only" in the request: nothing was refused)
  1    no connection, or the request is not the JSON of a DeployRequest
  2    wrong usage; nothing was sent
  67   the request is invalid
  68   the timeout passed
  69   the service was deleted or created again; or a Deploy names something that does not exist
  71   the caller has not the right
  73   the rollout failed, or the service is stopped; or the Deploy is refused. With
       --rollback-on-failure also where the rollback is refused or does not become ready
  74   a newer rollout replaced it
  78   the server went away and did not come back
  80   the caller has no valid token
  81   the rollout failed, and the service was rolled back and is ready (--rollback-on-failure)
  130  Ctrl-C; 143: terminated
  Others are 64 and the gRPC code.

Examples:
  GitHub Actions, GitLab CI:
    ci/deploy.sh modelservice.example:443 deploy.json
  Elsewhere, on this machine in plaintext:
    ci/deploy.sh --request-id "$BUILD_ID" \
        localhost:50051 deploy.json -- -plaintext
  A request from a template, with the token of the variable TOKEN:
    envsubst <deploy.json | ci/deploy.sh modelservice.example:443 - -- \
        -expand-headers -H 'authorization: Bearer ${TOKEN}'
  deploy.json:
    {"namespace": "default", "name": "iris", "spec": {"model": {
        "format": {"name": "sklearn"}, "storage_uri": "gs://bucket/iris"}}}
END
}

say() {
    printf 'deploy.sh: %s\n' "$*" >&2
}

wrong_usage() {
    say "$*; deploy.sh --help"
    exit 2
}

server='' request='' id='' timeout=0 patience=60 rollback=false
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --request-id | --timeout | --patience)
        [ $# -gt 1 ] || wrong_usage "$1 needs a value"
        case $1 in
        --request-id) id=$2 ;;
        --timeout) timeout=$2 ;;
        --patience) patience=$2 ;;
        esac
        shift
        ;;
    --rollback-on-failure) rollback=true ;;
    --rollback-on-failure=true | --rollback-on-failure=false) rollback=${1#*=} ;;
    --rollback-on-failure=*) wrong_usage "--rollback-on-failure must be true or false, got ${1#*=}" ;;
    --)
        shift
        break
        ;;
    -?*) wrong_usage "there is no option $1 (options for grpcurl follow a --)" ;;
    *)
        if [ -z "$server" ]; then
            server=$1
        elif [ -z "$request" ]; then
            request=$1
        else
            wrong_usage "SERVER and REQUEST must be all, got also $1"
        fi
        ;;
    esac
    shift
done
# From here on "$@" are the options for grpcurl.
while IFS= read -r option; do
    [ -z "$option" ] || set -- "$@" "$option"
done <<END
${GRPCURL_OPTIONS:-}
END

[ -n "$request" ] || wrong_usage "SERVER and REQUEST are needed"
for seconds in "$timeout" "$patience"; do
    case $seconds in
    # The shell's arithmetic takes a number with a leading zero for octal.
    '' | *[!0-9]* | 0?* | ???????*) wrong_usage "--timeout and --patience must be whole seconds, got $seconds" ;;
    esac
done
if [ -n "$id" ]; then
    :
elif [ -n "${GITHUB_RUN_ID:-}" ]; then
    id=github-$GITHUB_RUN_ID-${GITHUB_RUN_ATTEMPT:-1}
elif [ -n "${CI_JOB_ID:-}" ]; then
    id=gitlab-$CI_JOB_ID
else
    wrong_usage "--request-id is needed where neither GITHUB_RUN_ID nor CI_JOB_ID is set"
fi
case $id in
*[!A-Za-z0-9._-]* | ?????????????????????????????????????????????????????????????????*)
    wrong_usage "--request-id must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', got $id"
    ;;
esac
for tool in grpcurl cat date grep mkfifo mktemp rm sed sleep; do
    command -v "$tool" >/dev/null || wrong_usage "$tool is needed and is not on the PATH"
done
if [ "$request" = - ]; then
    body=$(cat)
else
    [ -r "$request" ] || wrong_usage "the file $request cannot be read"
    body=$(cat "$request")
fi
case ${body%%\{*} in
"$body" | *[![:space:]]*) wrong_usage "the request must be a JSON object" ;;
esac

folder=$(mktemp -d "${TMPDIR:-/tmp}/deploy.XXXXXX")
child='' showing='' service=''
# What Ctrl-C leaves, and the reasons of a rollout that failed and is rolled back.
leaves="stopped; the Deploy may have been done. The same command with --request-id $id takes it up again"
failed='' failed_remedy=''

clean_up() {
    for each in $child $showing; do
        kill "$each" 2>/dev/null || :
        # It may write into the folder.
        wait "$each" 2>/dev/null || :
    done
    rm -rf "$folder" || :
}

interrupted() {
    trap '' INT TERM HUP
    say "$leaves"
    exit "$1"
}

trap clean_up EXIT
trap 'interrupted 129' HUP
trap 'interrupted 130' INT
trap 'interrupted 143' TERM

# Wait for a process that runs in the background, since a trap runs during `wait` only; its exit code.
wait_for() {
    child=$1 code=0
    wait "$child" || code=$?
    child=''
}

# call SERVICE/METHOD FILE SECONDS GRPCURL_OPTION...: send what is in `request`, with the answer in
# FILE; sets `code`.
call() {
    method=$1 answer=$2 limit=$3
    shift 3
    left=$((ends - $(date +%s)))
    [ "$limit" -le "$left" ] || limit=$left
    [ "$limit" -gt 0 ] || limit=1
    # A connection that is gone without a word is noticed by -keepalive-time.
    grpcurl -connect-timeout 5 -keepalive-time 15 "$@" -format json -format-error \
        -max-time "$limit" -d @ "$server" "modelservice.v1.$method" \
        <"$folder/request" >"$folder/$answer" 2>"$folder/error" &
    wait_for $!
}

# write SERVICE/METHOD GRPCURL_OPTION...: send what is in `request` until it is answered.
write() {
    written=$1
    shift
    start_clock
    while :; do
        call "$written" answer 30 "$@"
        [ "$code" != 0 ] || break
        wait_to_retry
    done
}

start_clock() {
    heard=$(date +%s) pause=0
}

# Whether the error passes: the server says so, or no server has said anything.
passes() {
    if grep -q 'google\.rpc\.RetryInfo' "$folder/error"; then
        return 0
    elif grep -q '"domain": *"modelservice"' "$folder/error"; then
        return 1
    fi
    case $code in
    1)
        ! grep -Eq 'x509:|tls:' "$folder/error" &&
            grep -Eq 'Failed to dial|code = (Canceled|Unknown|DeadlineExceeded|Internal|Unavailable)' \
                "$folder/error"
        ;;
    65 | 66 | 68 | 77 | 78) return 0 ;;
    *) return 1 ;;
    esac
}

# Wait before the call is made again; ends the script where that is of no use.
wait_to_retry() {
    passes || give_up
    now=$(date +%s)
    if [ -e "$folder/heard" ] || grep -q '"domain": *"modelservice"' "$folder/error"; then
        rm -f "$folder/heard"
        heard=$now pause=0
    fi
    if [ "$now" -ge "$ends" ]; then
        say "not decided after $seconds s"
        code=68
        give_up
    elif [ $((now - heard)) -ge "$patience" ]; then
        say "no server has answered for $patience s"
        # All that grpcurl says where TLS is on one side only, or a client certificate is missing.
        ! grep -q 'Failed to dial.*: EOF' "$folder/error" ||
            say "it closes each connection: check -plaintext and -cacert, and whether its port takes" \
                "client certificates only (-cert and -key)"
        give_up
    fi
    [ "$pause" -ge 5 ] || pause=$((pause + 1))
    asked=$(sed -n 's/.*"retry_\{0,1\}[dD]elay": *"\([0-9]\{1,2\}\)[.0-9]*s".*/\1/p' "$folder/error")
    [ "${asked:-0}" -le "$pause" ] || pause=$asked
    say "${method#*/}: $(cause); again in $pause s"
    sleep "$pause" &
    wait_for $!
}

# Print grpcurl's error and what it comes to; end with its code. The error of a rollback ends with
# that of the rollout which failed.
give_up() {
    explain
    [ -n "$failed" ] || finish "$code" "$reasons" "$remedy"
    case $method in
    */Rollback) say "not rolled back: ${reasons:-$(cause)}" ;;
    *) say "the rollback is not ready: ${reasons:-$(cause)}" ;;
    esac
    finish 73 "$failed" "$failed_remedy"
}

# Print grpcurl's error; sets `reasons` and `remedy`.
explain() {
    cat "$folder/error" >&2
    echo >&2
    reasons=$(text_of reason '"') failure=$(text_of reason '"REASON_') remedy=$(text_of remedy '"')
    [ "$reasons" != "$failure" ] || reasons=''
    if [ "$code" = 68 ]; then
        reasons="not decided in time"
        [ -n "$failed" ] || reasons="$reasons; the same command with --request-id $id goes on"
    fi
    reasons=$reasons${failure:+${reasons:+, }$failure}
}

# finish CODE REASONS REMEDY
finish() {
    say "exit $1${2:+: $2}${service:+ ($service)}"
    [ -z "$3" ] || say "remedy: $3"
    exit "$1"
}

# text_of FIELD BEGINNING: the first such text in the details of the error.
text_of() {
    sed -n "/^      \"$1\": *$2/{s/^[^:]*: *\"//;s/\",\{0,1\}\$//;p;q;}" "$folder/error" | plain
}

# The error in one line.
cause() {
    sed -n '/^  "message": *"/{s/^[^:]*: *"//;s/",\{0,1\}$//;p;q;}' "$folder/error" | plain | grep . ||
        sed -n '1p' "$folder/error"
}

plain() {
    sed 's/\\"/"/g;s/\\n/ /g;s/\\u003[cC]/</g;s/\\u003[eE]/>/g;s/\\u0026/\&/g;s/\\\\/\\/g'
}

# Print each state that is not the last one printed, from the messages of a watch.
show() {
    state='' message='' in_status=''
    while IFS= read -r line; do
        : >"$folder/heard"
        case $line in
        '    "status": {') in_status=1 ;;
        '    }'*) in_status='' ;;
        '      "state": "'*) [ -z "$in_status" ] || state=$(value_in "$line") ;;
        '      "message": "'*) [ -z "$in_status" ] || message=$(value_in "$line") ;;
        '}')
            now_shown="${state#STATE_}  $message"
            if [ -n "$state" ] && [ "$now_shown" != "$(cat "$folder/shown" 2>/dev/null)" ]; then
                printf '%s\n' "$now_shown"
                printf '%s\n' "$now_shown" >"$folder/shown"
            fi
            state='' message=''
            ;;
        esac
    done
}

value_in() {
    printf '%s\n' "$1" | sed 's/^[^:]*: *"//;s/",\{0,1\}$//' | plain
}

field_of() {
    sed -n "/$1/{s/^[^:]*: *\"//;s/\".*//;p;q;}" "$folder/answer"
}

# Print the warnings about the Deploy, which no later answer has.
show_warnings() {
    field=''
    sed -n '/^  "warnings": *\[/,/^  \]/p' "$folder/answer" | while IFS= read -r line; do
        case $line in
        '    {') field='' ;;
        '      "field": '*) field=$(value_in "$line") ;;
        '      "message": '*) say "warning: ${field:+$field: }$(value_in "$line")" ;;
        esac
    done
}

# Print the ready_timeout of the answer's spec in whole seconds, or nothing. Labels and annotations
# stand at the same depth and may have any text, which arithmetic could run as a command.
ready_timeout_of() {
    sed -n '/^    "spec": *{$/,/^    }/s/^      "ready_\{0,1\}[tT]imeout": *//p' "$folder/answer" |
        sed -n 's/^"0*\([0-9]\{1,12\}\)\(\.[0-9]*\)\{0,1\}s",\{0,1\}$/\1/p'
}

# From the end of a rollout's time until its failure is known here, in seconds. An object that is in
# the way fails a rollout after up to 90 s, however short its own time is.
margin=120

# begin [READY_TIMEOUT]: begin the time in all; sets when it `ends`. A rollout is rolled back only
# once it has failed, so the default outlasts that.
begin() {
    seconds=$timeout
    [ "$seconds" -gt 0 ] || seconds=$((${1:-600} + margin))
    ends=$(($(date +%s) + seconds))
}

# Print what was written; sets the rollout to wait for, and without a --timeout the time for it.
show_written() {
    ready_timeout=$(ready_timeout_of)
    [ "$timeout" -gt 0 ] || begin "$ready_timeout"
    rollout=$(field_of '^  "rollout_\{0,1\}[iI]d": *"')
    printf '%s  %s\n' "$(field_of '^  "action": *"')" "$service"
    show_warnings
}

# watch GRPCURL_OPTION...: wait until the rollout is ready; with `rollback` also until it has failed,
# which `code` says.
watch() {
    printf '{"namespace": "%s", "name": "%s", "until": "UNTIL_READY", "rollout_id": "%s"}' \
        "$namespace" "$name" "$rollout" >"$folder/request"
    : >"$folder/shown"
    start_clock
    while :; do
        show <"$folder/stream" &
        showing=$!
        call ModelService/WatchStatus stream 300 "$@"
        wait "$showing" || :
        showing=''
        [ "$code" != 0 ] || break
        # Only a rollout that has failed has this detail; others need reflection to be read.
        if [ "$rollback" = true ] && grep -q '/modelservice\.v1\.Failure"' "$folder/error"; then
            break
        fi
        wait_to_retry
    done
}

begin
mkfifo "$folder/stream"
printf '{"request_id": "%s", %s' "$id" "${body#*\{}" >"$folder/request"
write ModelService/Deploy "$@"
namespace=$(field_of '^    "namespace": *"')
name=$(field_of '^    "name": *"')
service=$namespace/$name
show_written
if [ -z "$rollout" ]; then
    say "there is no rollout to wait for"
    exit 0
fi
goes_on="the rollout of $service goes on"
[ "$rollback" = false ] || goes_on="$goes_on, and is not rolled back if it fails"
leaves="stopped watching; $goes_on. The same command with --request-id $id watches it again"
watch "$@"
if [ "$code" = 0 ]; then
    say "$service is ready"
    exit 0
fi

explain
failed=$reasons failed_remedy=$remedy
say "$failed ($service); rolling it back"
leaves="stopped; the rollout of $service failed, and may not be rolled back"
begin "$ready_timeout"
rollback=false
# An id has at most 64 characters.
id=$id-on-failure
while [ ${#id} -gt 64 ]; do id=${id#?}; done
printf '{"namespace": "%s", "name": "%s", "rollout_id": "%s", "request_id": "%s"}' \
    "$namespace" "$name" "$rollout" "$id" >"$folder/request"
write RolloutService/Rollback "$@"
show_written
leaves="stopped watching; the rollback of $service goes on"
watch "$@"
printf '{"namespace": "%s", "name": "%s", "page_size": 1}' "$namespace" "$name" >"$folder/request"
call RolloutService/ListRevisions answer 10 "$@"
revision=''
[ "$code" != 0 ] || revision=$(field_of '^      "rollback_\{0,1\}[oO]f": *"')
say "$service is rolled back${revision:+ to revision $revision}, and is ready"
finish 81 "$failed" "$failed_remedy"
