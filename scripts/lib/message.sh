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
	[ ! -s "$log" ] || tail -n 15 "$log" |
		sed 's/\x1b[^a-zA-Z]*[a-zA-Z]//g; s/^/  | /; s/\r//' >&2
	die "$*; the whole log is $log"
}

# watch_step SHELL MESSAGE PROGRESS: show how far it is, as long as SHELL lives.
watch_step() {
	local start=$SECONDS now progress
	while kill -0 "$1" 2> /dev/null; do
		sleep 1
		now=$((SECONDS - start))
		if [ -t 2 ]; then
			progress=$([ "$3" = - ] || "$3")
			printf '\r\033[K%-58s %4d s  %s' "$2" $now "$progress" >&2
		elif [ "$3" != - ] && [ $now != 0 ] && [ $((now % 30)) = 0 ]; then
			printf '  %s, after %d s\n' "$("$3")" $now >&2
		fi
	done
}

# step MESSAGE PROGRESS COMMAND...: run the command, and print a line with the time that it
# took. PROGRESS is a function that prints how far the command is, or - for none; a
# terminal shows that every second, a log every half minute.
step() {
	local message=$1 progress=$2 start=$SECONDS shell=$BASHPID watcher rc
	shift 2
	[ -t 2 ] || printf '%s ...\n' "$message" >&2
	# The command is the one in the foreground, so that Ctrl-C ends it.
	watch_step "$shell" "$message" "$progress" >&2 &
	watcher=$!
	# Where a failure does not end the shell, it is returned.
	"$@" >&2
	rc=$?
	kill $watcher 2> /dev/null || :
	wait $watcher 2> /dev/null || :
	[ ! -t 2 ] || printf '\r\033[K' >&2
	[ $rc = 0 ] || return $rc
	printf '%-58s %4d s\n' "$message" $((SECONDS - start)) >&2
}

# cpu_seconds FILE: of all children of a shell, as its builtin times printed them to FILE.
cpu_seconds() {
	awk 'NR == 2 {
		split($1 "m" $2, t, /[ms]+/)
		printf "%.0f\n", 60 * (t[1] + t[3]) + t[2] + t[4]
	}' "$1"
}
