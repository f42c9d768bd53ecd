# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The jobs of the emulated host. The header of each has a table, with a row for each part of the
# tests: its name, the kernels that make check and make check-all run it on, and the machine as
# options of scripts/rig. A row without a name continues the one above.
#
#	#| part | make check | make check-all adds | scripts/rig run

# job_rows FILE...: print the rows as part|kernels|more kernels|file|options.
job_rows() {
	awk -F '|' '
	function flush() { if (part != "") print part "|" kernels "|" more "|" file "|" options }
	FNR == 1 { flush(); part = ""; file = FILENAME }
	/^#\|/ {
		for (i = 2; i <= 5; i++) { gsub(/^[ \t]+|[ \t]+$/, "", $i) }
		if ($2 == "part")
			next
		if ($2 != "") {
			flush()
			part = $2; kernels = $3; more = $4; options = $5
		} else {
			options = options " " $5
		}
	}
	END { flush() }' "$@"
}

all_job_rows() { job_rows "$TOP"/tests/jobs/*.sh; }

# job_row NAME PART: print the row of a job. NAME is a file or the name of a part. PART chooses a
# row of a file that has several; the default is the first one.
job_row() {
	local name=$1 part=$2 row
	if [ -f "$name" ]; then
		row=$(job_rows "$name" | awk -F '|' -v part="$part" 'part == "" || $1 == part' |
			head -n 1)
		[ -n "$row" ] || [ -z "$part" ] || die "$name has no part '$part':" \
			"$(job_rows "$name" | cut -d '|' -f 1 | tr '\n' ' ')"
		printf '%s\n' "${row:-||||}"
		return
	fi
	row=$(all_job_rows | awk -F '|' -v part="$name" '$1 == part')
	[ -n "$row" ] || die "'$name' is neither a file nor a part of the tests; the parts are" \
		"$(all_job_rows | cut -d '|' -f 1 | tr '\n' ' ')"
	printf '%s\n' "$row"
}
