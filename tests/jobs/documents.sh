# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=sh
# The commands that the documents show for a Grace machine, run as they stand there, one after the
# other: those that tests/commands.txt gives to the host. Only the GPU has another address here.
#
#| part | make check | make check-all adds | scripts/rig run
#| documents | newest | | --gpu=hopper:0x70000000000:94.5G
# shellcheck disable=SC1091
. /lib.sh

BDF=$(bdf_of GP00)
here() { sed "s/0009:01:00\.0/$BDF/g"; }

# prints STATUS TEXT COMMAND: in this shell, since some commands set a variable for others.
prints() {
	eval "$3" > /tmp/printed 2>&1 < /dev/null
	prints_rc=$?
	cat /tmp/printed
	[ $prints_rc = "$1" ] && { [ -z "$2" ] || grep -qF -e "$2" /tmp/printed; }
}

take_log > /dev/null
mount -t tmpfs tmpfs /usr/lib/modules
mkdir -p "/lib/modules/$(uname -r)/updates" /etc/modprobe.d /etc/udev/rules.d
cp /modules/*.ko "/lib/modules/$(uname -r)/updates/"
rm /bin/modprobe
ok depmod /usr/sbin/depmod
printf 'NAME:x:1000:1000::/:/bin/sh\n' > /etc/passwd
PATH=/usr/sbin:$PATH

nr=0
here < /commands.txt > /tmp/commands
while IFS= read -r line; do
	case $line in
	'#'* | '') ;;
	'	host'*)
		nr=$((nr + 1)) status=0 text=${line#*:}
		case $line in '	host 1:'*) status=1 ;; esac
		ok "$(echo "$nr.$command" | cut -c 1-70 | tr -c 'a-z0-9_.\n-' _)" \
			prints $status "${text# }" "$command"
		;;
	*) command=$line ;;
	esac
done < /tmp/commands
ok all_were_read [ $nr -ge 20 ]
ok log log_is_clean
finish
