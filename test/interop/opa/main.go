// Command opa is OPA as a Go program would embed it with its SDK, and, as a tool of this module, OPA
// itself: references of the policy rows of test/bench, which builds both. They are a module of
// their own because the product must not depend on what they need.
//
//	opa -dir FOLDER -path POLICY/PATH
//
// It reads the folder's *.rego and data.json, and says "ready". Then it reads lines. One that
// begins with { is an input to keep. A number n asks for n decisions, over the kept inputs in turn;
// the answer is a line with the microseconds of processor time of one.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/sdk"
)

func main() {
	dir := flag.String("dir", ".", "folder of the policy")
	path := flag.String("path", "", "what is asked")
	flag.Parse()
	if err := run(*dir, *path); err != nil {
		fmt.Fprintln(os.Stderr, "opa:", err)
		os.Exit(1)
	}
}

func run(dir, path string) error {
	ctx := context.Background()
	bundle, err := pack(dir)
	if err != nil {
		return err
	}
	defer os.Remove(bundle)
	config := fmt.Sprintf(`{"bundles": {"bench": {"resource": "file://%s"}}}`, bundle)
	o, err := sdk.New(ctx, sdk.Options{Config: strings.NewReader(config), Logger: logging.NewNoOpLogger()})
	if err != nil {
		return err
	}
	defer o.Stop(ctx)
	fmt.Println("ready")
	var inputs []any
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "{") {
			var in any
			if err := json.Unmarshal([]byte(line), &in); err != nil {
				return err
			}
			inputs = append(inputs, in)
			continue
		}
		n, err := strconv.Atoi(line)
		if err != nil {
			return err
		}
		before := spent()
		for i := range n {
			d, err := o.Decision(ctx, sdk.DecisionOptions{Path: path, Input: inputs[i%len(inputs)]})
			if err != nil {
				return err
			}
			if verdict, ok := d.Result.(map[string]any); !ok || verdict["allowed"] != true {
				return fmt.Errorf("input %d is denied: %v", i, d.Result)
			}
		}
		fmt.Println(float64((spent() - before).Nanoseconds()) / 1e3 / float64(n))
	}
	return lines.Err()
}

// spent is the processor time of this process so far, user and system.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it cannot fail for the process itself
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pack makes a bundle of a folder.
func pack(dir string) (string, error) {
	f, err := os.CreateTemp(dir, "bundle-*.tar.gz")
	if err != nil {
		return "", err
	}
	zip := gzip.NewWriter(f)
	w := tar.NewWriter(zip)
	files, err := filepath.Glob(filepath.Join(dir, "*.rego"))
	if err != nil {
		return "", err
	}
	for _, name := range append(files, filepath.Join(dir, "data.json")) {
		b, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		if err := w.WriteHeader(&tar.Header{Name: filepath.Base(name), Mode: 0o600, Size: int64(len(b))}); err != nil {
			return "", err
		}
		if _, err := w.Write(b); err != nil {
			return "", err
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if err := zip.Close(); err != nil {
		return "", err
	}
	path, err := filepath.Abs(f.Name())
	if err != nil {
		return "", err
	}
	return path, f.Close()
}
