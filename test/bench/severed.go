package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/bailiwick-mesh/bailiwick/attest/tpm/maker"
)

var cutOff = bench{
	area: "quarantine", name: "cut-off-5", aim: 250,
	unit:      "ms from the second of two contradicting records until the last live connection with the liar had ended",
	reference: "bailiwick quarantine list, which asks the five nodes at once, as a process of its own",
	note: "five processes with software TPMs in two regions, whose sample clients call over the mesh (bailiwick dev poison east-n2): the links of " +
		"the liar, which ended the node before, so no connection of a client is among them; times are those of the nodes, on one clock",
	prepare: severed,
}

// devFleet is a fleet of the product's own in a folder.
type devFleet struct {
	program, dir string
	env          []string
}

func (f devFleet) run(args ...string) (string, error) {
	cmd := exec.Command(f.program, args...)
	cmd.Dir, cmd.Env = f.dir, f.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("bailiwick %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// fresh starts a fleet anew, and waits until a client beside the node that is to lie has answers.
func (f devFleet) fresh() error {
	if _, err := os.Stat(filepath.Join(f.dir, ".dev")); err == nil {
		if _, err := f.run("dev", "clean"); err != nil {
			return err
		}
	}
	if _, err := f.run("dev", "--detach"); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var c struct {
			OK uint64 `json:"ok"`
		}
		if b, err := os.ReadFile(filepath.Join(f.dir, ".dev", "run", "shop-east-n2.json")); err == nil && json.Unmarshal(b, &c) == nil && c.OK >= 11 {
			return nil
		}
	}
	return errors.New("the sample client beside east-n2 has no answers")
}

var endedWithin = regexp.MustCompile(`(?m)^the last live connection with it ended within ([0-9]+) ms of the second record$`)

func severed(_ string, s size) (sides, error) {
	if s != full {
		return sides{}, errTiny
	}
	if _, err := maker.FindSwtpm(); err != nil {
		return sides{}, fmt.Errorf("swtpm %w: %w", errAbsent, err)
	}
	program, err := product()
	if err != nil {
		return sides{}, err
	}
	dir, err := os.MkdirTemp("", "bench") // short, for the names of sockets
	if err != nil {
		return sides{}, err
	}
	root, err := filepath.Abs(filepath.Join(".cache", "swtpm", "root")) // where make deps has it, if anywhere
	if err != nil {
		return sides{}, err
	}
	f, lied := devFleet{program, dir, append([]string{maker.RootEnv + "=" + root}, os.Environ()...)}, true
	fresh := func() error {
		if !lied {
			return nil
		}
		lied = false
		return f.fresh()
	}
	return sides{
		ours: func() (float64, error) {
			lied = true
			out, err := f.run("dev", "poison", "east-n2")
			if err != nil {
				return 0, err
			}
			found := endedWithin.FindStringSubmatch(out)
			if found == nil {
				return 0, fmt.Errorf("no figure in\n%s", out)
			}
			return strconv.ParseFloat(found[1], 64)
		},
		reference: func() (float64, error) {
			began := time.Now()
			_, err := f.run("quarantine", "list", "-o", "json")
			return inMS(time.Since(began)), err
		},
		ready: [2]func() error{fresh, fresh},
		stop: func() {
			_, _ = f.run("dev", "clean") // what it leaves is told by its processes
			_ = os.RemoveAll(dir)
		},
	}, nil
}
