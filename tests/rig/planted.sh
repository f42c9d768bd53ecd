# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# For scripts/check-rig: a job in which PLANT goes wrong.
# shellcheck disable=SC1091
. /lib.sh

PLANT=${1:-$PLANT}

plant() {
	insmod /modules/planted.ko "fault=$1" && rmmod planted
}

forget_leaks
case $PLANT in
nothing) ok test true ;;
failure) ok test false ;;
# Each in a shell of its own, as if it were a job.
verdicts)
	for verdict in nothing failure no_test skipped; do
		sh /job $verdict > /tmp/planted
		echo "# $verdict ends with $?: $(grep -v '^#' /tmp/planted | tr '\n' ' ')"
	done
	ok test true
	;;
no_plan) ok test true; exit 0 ;;
no_test) ;;
skipped) skip test 'planted' ;;
hang) ok test true; sleep 1000 ;;
# The log is drained, as tests do: the report has to be found all the same.
reports)
	for fault in leak sleep inversion; do ok $fault plant $fault; done
	take_log > /dev/null
	ok_no_leaks
	;;
*) ok "$PLANT" plant "$PLANT" ;;
esac
finish
