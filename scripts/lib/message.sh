# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What the scripts say to people, all of it on standard error.

say() { printf '%s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# die_log LOG MESSAGE...: the last lines of a log, then the message with its path.
die_log() {
	local log=$1
	shift
	[ ! -s "$log" ] || tail -n 15 "$log" | sed 's/\x1b[^a-zA-Z]*[a-zA-Z]//g; s/^/  | /; s/\r//' >&2
	die "$*; the whole log is $log"
}

# step MESSAGE PROGRESS COMMAND...: run the command, and print a line with the time that it
# took. PROGRESS is a function that prints how far the command is, or - for none; a
# terminal shows that every second, a log every half minute.
step() {
	local message=$1 progress=$2 start=$SECONDS pid rc=0 tty='' now
	shift 2
	[ ! -t 2 ] || tty=1
	[ -n "$tty" ] || printf '%s ...\n' "$message" >&2
	"$@" >&2 &
	pid=$!
	while kill -0 $pid 2> /dev/null; do
		sleep 0.2
		now=$((SECONDS - start))
		if [ -n "$tty" ]; then
			printf '\r\033[K%-58s %4d s  %s' "$message" $now "$([ "$progress" = - ] || "$progress")" >&2
			sleep 0.8
		elif [ "$progress" != - ] && [ $now -ge 30 ] && [ $((now % 30)) = 0 ]; then
			printf '  %s, after %d s\n' "$("$progress")" $now >&2
			sleep 0.8
		fi
	done
	wait $pid || rc=$?
	[ -z "$tty" ] || printf '\r\033[K' >&2
	[ $rc = 0 ] || return $rc
	printf '%-58s %4d s\n' "$message" $((SECONDS - start)) >&2
}
