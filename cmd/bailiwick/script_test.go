package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/dev"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

// patience is how long a command that waits does so before it fails the script.
const patience = 90 * time.Second

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
//	settles CODE COMMAND...     runs a command until it ends with this exit code
//	other REGEXP COMMAND...     the same as user $OTHER: another one than the nodes', if we may
//	json PATH REGEXP            all values at a path of the JSON on stdout match
//	capture NAME REGEXP         sets a variable to the group of a match in stdout
//	signal NAME TERM|KILL|HUP   signals a process of the fleet, by its name; it ends, but for HUP
//	grows CLIENT ok|refused N   waits until a sample client counted N more
//	counts CLIENT ok|refused N  a sample client counted exactly N so far
//	steady since                notes what was refused so far; then
//	steady CLIENT...            nothing more was refused since
//	uncrashed                   no process of the fleet crashed, to be asked before it is cleaned
//	post NODE METHOD JSON [REGEXP]   calls a node's local API as curl does, by its name or socket;
//	                            with a REGEXP until the answer matches
//	join FILE PART...           writes files one after the other into one
//	occupy udp|tcp ADDRESS      holds an address until the script ends
//	machine NAME                starts a software TPM: $NAME_TPM, $NAME_BOOTLOG
//	program NAME...             makes sample workloads
//	expand FILE...              puts variables into files
//	spire-server localauthority x509 ...   rotates a root, as the stock command does
//	clear NODE                  clears a node's TPM, as tpm2_clear does
//	cut-power NODE N EPOCH      kills a node N times; each time it comes back and writes in this epoch
//	certify DIR                 makes ca.pem, and cert.pem and key.pem of a machine under it
//	fingerprint NAME FILE       sets a variable to the SHA-1 of a certificate
//	free udp|tcp NAME           sets a variable to an address that nobody holds or is given by chance
//	unattested TRUST_DOMAIN     signs a global policy that lets its unattested nodes call
//	tpm NODE KILL|STOP|CONT|START   what befalls a node's TPM
//	disk NODE SIZE              gives a node that is stopped a disk of its own, where [disks] can be made
//	fill NODE                   fills that disk; room NODE gives the space back
//	put-until TEXT NODE         writes at a node until it refuses with this text: $N were acknowledged
//	policy global|REGION DIR    signs the next version of a policy: the dev one, with the
//	                            data.json of DIR laid over its own and DIR's schemas
func TestScripts(t *testing.T) {
	testscript.RunT(oneAtATime{t}, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("OTHER", strconv.Itoa(otherUser()))
			e.Setenv("UID", strconv.Itoa(os.Getuid()))
			e.Setenv("BAILIWICK_SWTPM_ROOT", os.Getenv("BAILIWICK_SWTPM_ROOT"))
			e.Values[sinceKey{}] = map[string]uint64{}
			e.Defer(func() { cleanUp(e.T().(oneAtATime).T, e.WorkDir) })
			return nil
		},
		Condition: func(c string) (bool, error) {
			if c == "disks" {
				return mayMount(t), nil
			}
			return false, fmt.Errorf("no condition %q", c)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "settles": cmdSettles, "until": cmdUntil, "other": cmdOther, "json": cmdJSON, "capture": cmdCapture,
			"signal": cmdSignal, "grows": cmdGrows, "counts": cmdCounts, "steady": cmdSteady, "occupy": cmdOccupy, "post": cmdPost,
			"free": cmdFree, "certify": cmdCertify, "clear": cmdClear, "cut-power": cmdCutPower, "fingerprint": cmdFingerprint, "machine": cmdMachine, "expand": cmdExpand, "program": cmdProgram, "spire-server": cmdSpireServer, "unattested": cmdUnattested, "join": cmdJoin, "collector": cmdCollector, "policy": cmdPolicy, "ext-authz": cmdExtAuthz, "authzen": cmdAuthZEN,
			"disk": cmdDisk, "fill": cmdFill, "room": cmdRoom, "tpm": cmdTPM, "put-until": cmdPutUntil,
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

func cmdJoin(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "join FILE PART...")
	var whole strings.Builder
	for _, part := range args[1:] {
		whole.WriteString(ts.ReadFile(part))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(whole.String()), 0o600))
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

func cmdSettles(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "settles CODE COMMAND...")
	var stdout, stderr strings.Builder
	poll(ts, func() string {
		stdout.Reset()
		stderr.Reset()
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &stdout, &stderr
		if got := exitOf(cmd.Run()); strconv.Itoa(got) != args[0] {
			return fmt.Sprintf("exit code %d, want %s:\n%s%s", got, args[0], stdout.String(), stderr.String())
		}
		return ""
	})
	fmt.Fprint(ts.Stdout(), stdout.String())
}

func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "until REGEXP COMMAND...")
	until(ts, args, func() *exec.Cmd { return exec.Command(args[1], args[2:]...) })
}

// otherUser is who runs other: nobody in particular where we are root.
func otherUser() int {
	if os.Getuid() == 0 {
		return 4711
	}
	return os.Getuid()
}

func cmdOther(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "other REGEXP COMMAND...")
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	program, err := os.Open(path)
	ts.Check(err)
	defer program.Close()
	until(ts, args, func() *exec.Cmd {
		// By its descriptor: the folders above it are not for everybody.
		cmd := &exec.Cmd{Path: "/proc/self/fd/3", Args: args[1:], ExtraFiles: []*os.File{program}, SysProcAttr: &syscall.SysProcAttr{}}
		if uid := uint32(otherUser()); os.Getuid() == 0 {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
		}
		return cmd
	})
}

// until runs commands until the output of one matches args[0].
func until(ts *testscript.TestScript, args []string, command func() *exec.Cmd) {
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	var stdout, stderr strings.Builder
	poll(ts, func() string { // not by ts.Exec, which would log every attempt
		stdout.Reset()
		stderr.Reset()
		cmd := command()
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
	plain(ts, neg, args, 2, "signal NAME TERM|KILL|HUP|STOP|CONT")
	sig, ok := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL, "HUP": syscall.SIGHUP, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}[args[1]]
	if !ok {
		ts.Fatalf("signal %s: want TERM, KILL, HUP, STOP or CONT", args[1])
	}
	var p struct {
		PID int `json:"pid"`
	}
	pidFile := filepath.Join(fleet(ts).RunDir, args[0]+".pid")
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(pidFile)), &p))
	ts.Check(syscall.Kill(p.PID, sig))
	if sig != syscall.SIGTERM && sig != syscall.SIGKILL {
		return
	}
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
	plain(ts, neg, args, 3, "post NODE METHOD JSON [REGEXP]")
	socket := args[0]
	if !filepath.IsAbs(socket) {
		n, err := fleet(ts).Node(socket)
		ts.Check(err)
		socket = n.ControlSocket
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	want, err := regexp.Compile(strings.Join(args[3:], " ")) // none matches anything
	ts.Check(err)
	var answer []byte
	poll(ts, func() string {
		resp, err := client.Post("http://bailiwick/bailiwick.control.v1.Control/"+args[1], "application/json", strings.NewReader(args[2]))
		ts.Check(err)
		defer resp.Body.Close()
		answer, err = io.ReadAll(resp.Body)
		ts.Check(err)
		if want.Match(answer) {
			return ""
		}
		return fmt.Sprintf("no match for %q in: %s", want, answer)
	})
	_, err = ts.Stdout().Write(answer)
	ts.Check(err)
}

// cmdFree looks below the ports that the kernel gives out by itself: between this and the
// use, one of those may become anybody's end of a connection.
func cmdFree(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "free udp|tcp NAME")
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+rand.N(15000))
		var c io.Closer
		var err error
		if args[0] == "udp" {
			c, err = net.ListenPacket("udp", address)
		} else {
			c, err = net.Listen("tcp", address)
		}
		if err == nil {
			ts.Setenv(args[1], address)
			ts.Check(c.Close())
			return
		}
	}
	ts.Fatalf("no port is free")
}

func cmdUnattested(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "unattested TRUST_DOMAIN")
	dir := filepath.Join(fleet(ts).Dir, "global")
	key, err := keyfile.Open(filepath.Join(dir, "global.key.pem"))
	ts.Check(err)
	level := builtin.Dev("east")[0]
	level.Data["connect"].(map[string]any)["unattested_trust_domains"] = []any{args[0]}
	content, err := bundle.Content{Modules: level.Modules, Data: level.Data}.Encode()
	ts.Check(err)
	from := time.Now().Add(-time.Minute)
	signed, err := bundle.Sign(key, bundle.Record{
		Level: level.Name, Scope: bundle.ScopeMesh, Version: 2, Parent: bundle.Parent{Scope: bundle.ScopeMesh, Version: 1}, Mode: bundle.Enforce,
		StaleMode: bundle.StaleContinue, Author: "spiffe://dev.example/global", Requires: bundle.Features, NotBefore: from.Unix(), NotAfter: from.Add(time.Hour).Unix(),
	}, content)
	ts.Check(err)
	joined, err := bundle.Join(signed, content)
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "global.policy"), joined, 0o600))
}
