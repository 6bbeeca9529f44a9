package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

// mayMount reports whether a small disk can be made here.
func mayMount(t *testing.T) bool {
	if os.Geteuid() != 0 {
		return false
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		return false
	}
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	return true
}

// cmdDisk moves the state of a node that is stopped to a disk of its own, until the script ends.
func cmdDisk(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "disk NODE SIZE")
	n, err := fleet(ts).Node(args[0])
	ts.Check(err)
	dir := n.StateDir()
	aside := dir + ".aside"
	ts.Check(os.Rename(dir, aside))
	ts.Check(os.Mkdir(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+args[1]))
	ts.Defer(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	ts.Check(os.CopyFS(dir, os.DirFS(aside)))
	ts.Check(filepath.WalkDir(aside, func(path string, d os.DirEntry, err error) error { // CopyFS keeps no modes
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(filepath.Join(dir, strings.TrimPrefix(path, aside)), info.Mode().Perm())
	}))
	ts.Check(os.RemoveAll(aside))
}

// cmdFill takes what is free on the disk of a node's state, to the last block; cmdRoom gives it back.
func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "fill NODE")
	f, err := os.OpenFile(filler(ts, args[0]), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	ts.Check(err)
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		ts.Fatalf("fill the disk: %v", err)
	}
}

func cmdRoom(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "room NODE")
	ts.Check(os.Remove(filler(ts, args[0])))
}

func filler(ts *testscript.TestScript, node string) string {
	n, err := fleet(ts).Node(node)
	ts.Check(err)
	return filepath.Join(n.StateDir(), "filler")
}

// cmdTPM ends a node's TPM as a fault does, or powers it up again.
func cmdTPM(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "tpm NODE KILL|STOP|CONT|START")
	f := fleet(ts)
	n, err := f.Node(args[0])
	ts.Check(err)
	if args[1] == "START" {
		ca, err := maker.OpenCA(filepath.Join(f.Dir, "maker"))
		ts.Check(err)
		soft, err := ca.Manufacture(context.Background(), n.TPMDir())
		ts.Check(err)
		ts.Defer(func() { _ = soft.Stop() })
		return
	}
	soft, err := maker.Attach(n.TPMDir())
	if args[1] == "CONT" {
		err = nil
	}
	ts.Check(err)
	signals := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
	ts.Check(syscall.Kill(soft.PID(), signals[args[1]]))
}

// cmdPutUntil writes x-note/n0, n1, ... at a node, one after the other, until one is refused, which
// must say this; $N is how many were acknowledged, $LAST the last of them. n0 was written before.
func cmdPutUntil(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "put-until TEXT NODE")
	n, err := fleet(ts).Node(args[1])
	ts.Check(err)
	for i := range 2000 {
		cmd := exec.Command("bailiwick", "put", "--node", args[1], n.ID.Path()+"/x-note/n"+strconv.Itoa(i), strconv.Itoa(i))
		cmd.Dir = ts.MkAbs(".")
		out, err := cmd.CombinedOutput()
		if err == nil {
			continue
		}
		if !strings.Contains(string(out), args[0]) {
			ts.Fatalf("write %d is refused with %s", i, out)
		}
		ts.Setenv("N", strconv.Itoa(max(i, 1)))
		ts.Setenv("LAST", strconv.Itoa(max(i-1, 0)))
		return
	}
	ts.Fatalf("2000 writes, and none is refused")
}
