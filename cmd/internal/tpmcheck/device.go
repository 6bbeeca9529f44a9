package tpmcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// deviceFix says why a TPM cannot be opened, as far as the file system knows.
func deviceFix(device string, err error) string {
	path, socket := strings.CutPrefix(device, "unix:")
	switch {
	case strings.HasPrefix(device, "tcp:") || socket && !errors.Is(err, fs.ErrPermission):
		return "start the software TPM that should listen there, or correct the address"
	case errors.Is(err, fs.ErrNotExist):
		if _, other := os.Stat("/dev/tpm0"); path == "/dev/tpmrm0" && other == nil {
			return "this kernel has a TPM and no resource manager for it: it is a TPM 1.2, or the kernel is older than 4.12"
		}
		return "switch the TPM on in the firmware settings (PTT, fTPM, security device) and see that its driver is loaded (modprobe tpm_crb tpm_tis); ls /dev/tpm* shows what there is"
	case errors.Is(err, fs.ErrPermission):
		return permissionFix(path)
	case errors.Is(err, syscall.EBUSY):
		return "something else holds it: use /dev/tpmrm0, which can be shared, or stop the other (fuser -v " + path + ")"
	}
	return "tpm.device is /dev/tpmrm0, unix:/path or tcp:host:port of a TPM 2.0"
}

// permissionFix names the group that may open a device.
func permissionFix(path string) string {
	fix := "run as a user that may open " + path
	info, err := os.Stat(path)
	if err != nil {
		return fix
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Perm()&0o060 != 0o060 {
		return fix + fmt.Sprintf(": its mode is %#o; a udev rule gives it to group tss with 0660", info.Mode().Perm())
	}
	group := strconv.FormatUint(uint64(st.Gid), 10)
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf("add the node's user to group %s (usermod -aG %s USER, or SupplementaryGroups=%s in its unit)", group, group, group)
}
