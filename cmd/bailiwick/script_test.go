package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
)

// patience is how long a command that waits does so before it fails the script.
const patience = 30 * time.Second

// TestMain lets this binary be the command, also under the names that a dev fleet
// gives its sample workloads.
func TestMain(m *testing.M) {
	run := func() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }
	if slices.Contains([]string{"web", "shop", "intruder"}, filepath.Base(os.Args[0])) {
		run()
	}
	testscript.Main(m, map[string]func(){"bailiwick": run})
}

// TestScripts runs testdata/*.txtar: stories over the real command, processes and
// software TPMs. Beside testscript's own commands they have:
//
//	exits CODE COMMAND...       runs a command that must end with this exit code
//	until REGEXP COMMAND...     runs a command until its output matches
//	json PATH REGEXP            all values at a path of the JSON on stdout match
//	capture NAME REGEXP         sets a variable to the group of a match in stdout
//	signal NAME SIGNAL          signals a process of the fleet, by its name
//	grows CLIENT ok|refused N   waits until a sample client counted N more
//	counts CLIENT ok|refused N  a sample client counted exactly N so far
//	steady since                notes what was refused so far; then
//	steady CLIENT...            nothing more was refused since
//	uncrashed                   no process of the fleet crashed, to be asked before it is cleaned
//	post NODE METHOD JSON       calls a node's local API as curl does, over plain HTTP
//	occupy udp|tcp ADDRESS      holds an address until the script ends
func TestScripts(t *testing.T) {
	testscript.RunT(oneAtATime{t}, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("BAILIWICK_SWTPM_ROOT", os.Getenv("BAILIWICK_SWTPM_ROOT"))
			e.Values[sinceKey{}] = map[string]uint64{}
			e.Defer(func() { cleanUp(e.T().(oneAtATime).T, e.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "until": cmdUntil, "json": cmdJSON, "capture": cmdCapture,
			"signal": cmdSignal, "grows": cmdGrows, "counts": cmdCounts, "steady": cmdSteady, "occupy": cmdOccupy, "post": cmdPost,
			"uncrashed": func(ts *testscript.TestScript, _ bool, _ []string) { crashed(ts.Fatalf, fleet(ts)) },
		},
	})
}

// oneAtATime runs scripts one after another: each is a fleet of eleven processes,
// and some say how long a thing may take.
type oneAtATime struct{ *testing.T }

func (o oneAtATime) Parallel() {}

func (o oneAtATime) Run(name string, f func(testscript.T)) {
	o.T.Run(name, func(t *testing.T) { f(oneAtATime{t}) })
}

func (o oneAtATime) Verbose() bool { return testing.Verbose() }

// cleanUp ends what a script left, also where it failed; then it first shows what
// the fleet had to say. A process that crashed fails the script in any case: the
// supervisor has started it again.
func cleanUp(t *testing.T, project string) {
	f, err := dev.Find(project)
	if errors.Is(err, dev.ErrNoFleet) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	crashed(t.Errorf, f)
	if t.Failed() {
		for path, text := range logs(t.Errorf, f) {
			t.Logf("the end of %s:\n%s", path, ending(text))
		}
	}
	if err := dev.Clean(project); err != nil {
		t.Errorf("clean: %v", err)
	}
}

// logs are what the fleet's supervisor and nodes wrote so far, by file.
func logs(complain func(string, ...any), f *dev.Fleet) map[string]string {
	out := map[string]string{}
	paths := []string{filepath.Join(f.Dir, "supervisor.log")}
	for _, n := range f.Nodes {
		paths = append(paths, filepath.Join(n.Dir, "log"))
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			complain("%v", err)
		}
		out[path] = string(b)
	}
	return out
}

// crashed complains of every process that ended as none may.
func crashed(complain func(string, ...any), f *dev.Fleet) {
	for path, text := range logs(complain, f) {
		if i := max(strings.Index(text, "WARNING: DATA RACE"), strings.Index(text, "panic: ")); i >= 0 {
			complain("%s:\n%.8000s", path, text[i:])
		}
	}
}

// ending is the last of a log, without the intruder's refusals, five a second.
func ending(log string) string {
	lines := slices.DeleteFunc(strings.SplitAfter(log, "\n"), func(line string) bool { return strings.Contains(line, "caller-not-granted") })
	return strings.Join(lines[max(0, len(lines)-15):], "")
}

type sinceKey struct{}

// plain refuses `!` and wrong numbers of arguments.
func plain(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

func exitOf(err error) int {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.ExitCode()
	}
	return -1
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "exits CODE COMMAND...")
	if got := exitOf(ts.Exec(args[1], args[2:]...)); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit code %d, want %s; stderr: %s", got, args[0], ts.ReadFile("stderr"))
	}
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "until REGEXP COMMAND...")
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var stdout, stderr strings.Builder
	poll(ts, func() string { // not by ts.Exec, which would log every attempt
		stdout.Reset()
		stderr.Reset()
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &stdout, &stderr
		err := cmd.Run()
		if want.MatchString(stdout.String()) {
			return ""
		}
		return fmt.Sprintf("no match for %q (%v) in:\n%s%s", args[0], err, stdout.String(), stderr.String())
	})
	fmt.Fprint(ts.Stdout(), stdout.String())
}

// poll asks until there is nothing to complain about.
func poll(ts *testscript.TestScript, complaint func() string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		what := complaint()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("after %s: %s", patience, what)
		}
	}
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "json PATH REGEXP")
	want, err := regexp.Compile("^(?:" + args[1] + ")$")
	ts.Check(err)
	var doc any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &doc))
	values, err := dig(doc, strings.Split(args[0], "."))
	ts.Check(err)
	if len(values) == 0 {
		ts.Fatalf("nothing at %s", args[0])
	}
	for _, v := range values {
		if s := fmt.Sprint(v); !want.MatchString(s) {
			ts.Fatalf("%s is %q, want %s", args[0], s, args[1])
		}
	}
}

// dig returns the values at a path, in which * is every member.
func dig(doc any, path []string) ([]any, error) {
	if len(path) == 0 {
		return []any{doc}, nil
	}
	var next []any
	switch v := doc.(type) {
	case map[string]any:
		if path[0] == "*" {
			for _, member := range v {
				next = append(next, member)
			}
		} else if member, ok := v[path[0]]; ok {
			next = append(next, member)
		} else {
			return nil, fmt.Errorf("no member %q in %v", path[0], v)
		}
	case []any:
		i, err := strconv.Atoi(path[0])
		switch {
		case path[0] == "*":
			next = v
		case err != nil || i >= len(v):
			return nil, fmt.Errorf("no element %q among %d", path[0], len(v))
		default:
			next = v[i : i+1]
		}
	default:
		return nil, fmt.Errorf("%v has no members, wanted %q", v, path[0])
	}
	var out []any
	for _, member := range next {
		values, err := dig(member, path[1:])
		if err != nil {
			return nil, err
		}
		out = append(out, values...)
	}
	return out, nil
}

func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "capture NAME REGEXP")
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(m) != 2 {
		ts.Fatalf("no group of %q in:\n%s", args[1], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[0], m[1])
}

func fleet(ts *testscript.TestScript) *dev.Fleet {
	f, err := dev.Find(ts.MkAbs("."))
	ts.Check(err)
	return f
}

func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "signal NAME TERM|KILL")
	sig, ok := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
	if !ok {
		ts.Fatalf("signal %s: want TERM or KILL", args[1])
	}
	var p struct {
		PID int `json:"pid"`
	}
	pidFile := filepath.Join(fleet(ts).RunDir, args[0]+".pid")
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(pidFile)), &p))
	ts.Check(syscall.Kill(p.PID, sig))
	poll(ts, func() string { // the supervisor reaps it, or it is nobody's child
		if err := syscall.Kill(p.PID, 0); errors.Is(err, syscall.ESRCH) {
			return ""
		}
		return fmt.Sprintf("%s (process %d) is still there", args[0], p.PID)
	})
}

// counters are a sample client's, zero before it has written any.
func counters(ts *testscript.TestScript, client string) dev.Counters {
	c, err := fleet(ts).ReadCounters(client)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("%s: %v", client, err)
	}
	return c
}

func cmdGrows(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "grows CLIENT ok|refused N")
	by, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	before := counted(counters(ts, args[0]), args[1])
	poll(ts, func() string {
		c := counters(ts, args[0])
		if counted(c, args[1]) >= before+by {
			return ""
		}
		return fmt.Sprintf("%s: %s was %d, want %d more: %+v", args[0], args[1], before, by, c)
	})
}

func counted(c dev.Counters, what string) uint64 {
	if what == "refused" {
		return c.Refused
	}
	return c.OK
}

func cmdCounts(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "counts CLIENT ok|refused N")
	if c := counters(ts, args[0]); fmt.Sprint(counted(c, args[1])) != args[2] {
		ts.Fatalf("%s: want %s %s: %+v", args[0], args[2], args[1], c)
	}
}

func cmdSteady(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "steady since | steady CLIENT...")
	since := ts.Value(sinceKey{}).(map[string]uint64)
	if args[0] == "since" {
		for _, w := range fleet(ts).Workloads {
			since[w.Name] = counters(ts, w.Name).Refused
		}
		return
	}
	for _, client := range args {
		if c := counters(ts, client); c.Refused != since[client] || c.OK == 0 {
			ts.Fatalf("%s: %d calls were refused, %d before: %+v", client, c.Refused, since[client], c)
		}
	}
}

func cmdOccupy(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "occupy udp|tcp ADDRESS")
	var c interface{ Close() error }
	var err error
	if args[0] == "udp" {
		c, err = net.ListenPacket("udp", args[1])
	} else {
		c, err = new(net.ListenConfig).Listen(context.Background(), args[0], args[1])
	}
	ts.Check(err)
	ts.Defer(func() { _ = c.Close() })
}

func cmdPost(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "post NODE METHOD JSON")
	n, err := fleet(ts).Node(args[0])
	ts.Check(err)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.ControlSocket)
		},
	}}
	resp, err := client.Post("http://bailiwick/bailiwick.control.v1.Control/"+args[1], "application/json", strings.NewReader(args[2]))
	ts.Check(err)
	defer resp.Body.Close()
	_, err = io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
}
