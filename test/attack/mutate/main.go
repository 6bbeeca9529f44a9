// Command mutate takes out each check that stops an attack, one at a time, and demands
// that the attack's test then fails.
//
//	go run ./test/attack/mutate [-check TEXT] [-jobs N]
//
// Checks are marked in the code; package attack says how. For each a copy of its file
// is made with the check taken out, the tests' package (test/attack, or for trails
// cmd/internal/audit/attack) is built with that file in the other's
// place (go build -overlay: the tree stays as it is, and the build cache knows the
// rest), and the tests named run, but not on loopback. Before that all of them run once with
// nothing taken out, and must pass.
//
// The table has one line a check and test: killed means that the test failed, as it
// should. The exit code is 1 if a test SURVIVED without its check, if a marker names no
// test or an attack has no marker, or if a check cannot be taken out.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
)

// attacks are the folders with attacks. No two of these have the same name.
var attacks = []string{"./test/attack", "./cmd/internal/audit/attack"}

const patience = 2 * time.Minute // for the tests of one check

func main() {
	only := flag.String("check", "", "only checks whose place or tests contain this text")
	jobs := flag.Int("jobs", 2, "how many at once")
	flag.Parse()
	if err := run(*only, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// outcome is one check and one of its tests.
type outcome struct {
	check
	test    string
	failed  bool
	seconds float64
}

func run(only string, jobs int) error {
	start := time.Now()
	checks, err := scan(".")
	if err != nil {
		return err
	}
	tests, err := attackTests(attacks...)
	if err != nil {
		return err
	}
	if wrong := inStep(checks, tests); len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "\n"))
	}
	checks = slices.DeleteFunc(checks, func(c check) bool {
		return !strings.Contains(c.String()+" "+strings.Join(c.tests, " "), only)
	})
	if len(checks) == 0 {
		return fmt.Errorf("no check has %q in its place or among its tests", only)
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := sound(dir, checks, tests); err != nil {
		return err
	}
	results := make([][]outcome, len(checks))
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(jobs)
	for i, c := range checks {
		g.Go(func() (err error) {
			results[i], err = takeOut(ctx, filepath.Join(dir, fmt.Sprint(i)), c, tests)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return report(slices.Concat(results...), time.Since(start))
}

// sound runs every test named, with nothing taken out.
func sound(dir string, checks []check, tests map[string]attack) error {
	whole := binaries{dir: dir}
	seen := map[string]bool{}
	for _, c := range checks {
		for _, test := range c.tests {
			if seen[test] {
				continue
			}
			seen[test] = true
			folder := folderOf(tests, test)
			bin, err := whole.of(context.Background(), folder)
			if err != nil {
				return err
			}
			out, err := runTest(context.Background(), bin, folder, test)
			if err != nil {
				return fmt.Errorf("%s fails with nothing taken out:\n%s", test, out)
			}
			if !bytes.Contains(out, []byte("--- PASS: "+test+" ")) {
				return fmt.Errorf("%s: %s names no attack that passes without real sockets", c, test)
			}
		}
	}
	return nil
}

// takeOut runs the tests of one check without it.
func takeOut(ctx context.Context, dir string, c check, tests map[string]attack) (out []outcome, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	changed, err := c.without()
	if err != nil {
		return nil, err
	}
	file, overlay := filepath.Join(dir, filepath.Base(c.file)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(c.file)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, abs, file), 0o600); err != nil {
		return nil, err
	}
	bins := binaries{dir: dir, overlay: overlay}
	defer bins.remove()
	for _, test := range c.tests {
		folder := folderOf(tests, test)
		bin, err := bins.of(ctx, folder)
		if err != nil {
			return nil, fmt.Errorf("%s cannot be taken out: %w", c, err)
		}
		start := time.Now()
		_, err = runTest(ctx, bin, folder, test)
		out = append(out, outcome{c, test, err != nil, time.Since(start).Seconds()})
	}
	return out, nil
}

// folderOf is where a test or subtest is.
func folderOf(tests map[string]attack, name string) string {
	test, _, _ := strings.Cut(name, "/")
	return tests[test].folder
}

// binaries are the test programs of folders with attacks, each built when it is needed.
type binaries struct {
	dir, overlay string
	built        map[string]string
}

func (b *binaries) of(ctx context.Context, folder string) (bin string, err error) {
	if bin, ok := b.built[folder]; ok {
		return bin, nil
	}
	if b.built == nil {
		b.built = map[string]string{}
	}
	bin = filepath.Join(b.dir, fmt.Sprintf("attack%d.test", len(b.built)))
	b.built[folder] = bin
	return bin, build(ctx, bin, b.overlay, folder)
}

func (b *binaries) remove() {
	for _, bin := range b.built {
		os.Remove(bin)
	}
}

func build(ctx context.Context, bin, overlay, folder string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay="+overlay, "-o", bin, folder)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// runTest runs one test, but not on loopback; its error means that it failed or hung.
func runTest(ctx context.Context, bin, folder, test string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var pattern []string
	for part := range strings.SplitSeq(test, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.CommandContext(ctx, bin, "-test.v", "-test.failfast", "-test.skip=/^loopback$|//^loopback$", "-test.run="+strings.Join(pattern, "/"))
	cmd.Dir = folder
	return cmd.CombinedOutput()
}

func report(all []outcome, took time.Duration) error {
	slices.SortStableFunc(all, func(a, b outcome) int { return cmp.Compare(a.test, b.test) })
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TEST\tCHECK\t\tSECONDS")
	survived := 0
	for _, o := range all {
		verdict := "killed"
		if !o.failed {
			verdict, survived = "SURVIVED", survived+1
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.1f\n", o.test, o.check, verdict, o.seconds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf("%d checks and tests in %s\n", len(all), took.Round(time.Second))
	if survived > 0 {
		return fmt.Errorf("%d survived: without that check the test must fail", survived)
	}
	return nil
}
