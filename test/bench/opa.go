package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

// verdict combines the levels in Rego, as one does without an engine of levels.
const verdict = `package bench

import rego.v2

denied := data.bailiwick.global.connect.deny | data.bailiwick.local.connect.deny

default allowed := false

allowed if {
	count(denied) == 0
	count(data.bailiwick.regional.connect.allow) > 0
}

decision := {"allowed": allowed, "denied": denied, "by": data.bailiwick.regional.connect.allow}
`

// modules are the levels and verdict as files of one OPA, with the data of all levels.
func (f *fleet) modules() (files map[string]string, data map[string]any) {
	files, data = map[string]string{"verdict.rego": verdict}, map[string]any{}
	for _, l := range f.levels {
		maps.Copy(data, l.Data)
		for path, source := range l.Modules {
			files[l.Name+"-"+path] = source
		}
	}
	return files, data
}

// prepared is OPA in this process: one compiler, one store.
type prepared struct {
	query rego.PreparedEvalQuery
	store storage.Store
	next  int
}

func (f *fleet) store() (*prepared, error) {
	files, data := f.modules()
	p := &prepared{store: inmem.NewFromObject(data)}
	options := []func(*rego.Rego){rego.Query("x = data.bench.decision"), rego.Store(p.store)}
	for path, source := range files {
		options = append(options, rego.Module(path, source))
	}
	var err error
	p.query, err = rego.New(options...).PrepareForEval(context.Background())
	return p, err
}

func (p *prepared) decide(in policy.Input) error {
	input, err := asJSON(in)
	if err != nil {
		return err
	}
	rs, err := p.query.Eval(context.Background(), rego.EvalInput(input))
	if err != nil || len(rs) != 1 {
		return fmt.Errorf("%d results: %w", len(rs), err)
	}
	return allowed(rs[0].Bindings["x"])
}

// swap writes other data into the store that decisions read.
func (p *prepared) swap() error {
	p.next++
	return storage.WriteOne(context.Background(), p.store, storage.ReplaceOp, storage.Path{"services"}, map[string]any{"web": map[string]any{"callers": []any{fmt.Sprint(p.next)}}})
}

// rego asks OPA in this process, with ready maps as input.
func (f *fleet) rego(count int) (func() (float64, error), error) {
	p, err := f.store()
	if err != nil {
		return nil, err
	}
	inputs := make([]map[string]any, min(count, 1000))
	for i := range inputs {
		if inputs[i], err = asJSON(f.input(i)); err != nil {
			return nil, err
		}
	}
	return func() (float64, error) {
		return cpuMicros(count, nil, func() error {
			for i := range count {
				rs, err := p.query.Eval(context.Background(), rego.EvalInput(inputs[i%len(inputs)]))
				if err != nil || len(rs) != 1 {
					return fmt.Errorf("%d results: %w", len(rs), err)
				}
				if err := allowed(rs[0].Bindings["x"]); err != nil {
					return err
				}
			}
			return nil
		})
	}, nil
}

func allowed(result any) error {
	if d, ok := result.(map[string]any); !ok || d["allowed"] != true {
		return fmt.Errorf("denied: %v", result)
	}
	return nil
}

// opaModule has the programs that OPA's rows compare with.
var opaModule = filepath.Join("test", "interop", "opa")

// build makes a program of opaModule, or says why it is not to be had.
func build(name, pkg string) (string, error) {
	path, err := filepath.Abs(filepath.Join(".cache", "bench", name))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-C", opaModule, "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("OPA %w: building it failed: %s", errAbsent, bytes.TrimSpace(out))
	}
	return path, nil
}

// folder writes the policy where OPA's programs read it. Its name is short, for a socket in it.
func (f *fleet) folder() (string, error) {
	dir, err := os.MkdirTemp("", "opa-")
	if err != nil {
		return "", err
	}
	files, data := f.modules()
	b, err := json.Marshal(data)
	if err != nil {
		return "", err
	}
	files["data.json"] = string(b)
	for name, source := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// opaServer is OPA's own program, answering on a unix socket.
type opaServer struct {
	dir    string
	proc   *process
	client *http.Client
}

func (f *fleet) server(s size) (*opaServer, error) {
	if s == tiny {
		return nil, errTiny
	}
	program, err := build("opa", "github.com/open-policy-agent/opa")
	if err != nil {
		return nil, err
	}
	dir, err := f.folder()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "s")
	o := &opaServer{dir: dir, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
	logs, err := os.MkdirTemp("", "opa-log-")
	if err != nil {
		return nil, err
	}
	o.proc, err = startProcess(logs, "opa", program, "run", "--server", "--disable-telemetry", "--log-level", "error", "--addr", "unix://"+socket, dir)
	if err != nil {
		return nil, err
	}
	if err := until(o.proc, func() error { return o.decide(f.input(0)) }); err != nil {
		o.stop()
		return nil, err
	}
	return o, nil
}

func (o *opaServer) decide(in policy.Input) error {
	body, err := json.Marshal(map[string]any{"input": in})
	if err != nil {
		return err
	}
	r, err := o.client.Post("http://opa/v1/data/bench/decision", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Result any `json:"result"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return fmt.Errorf("%w: %s", err, b)
	}
	return allowed(answer.Result)
}

func (o *opaServer) decisions(f *fleet, count int) func() (float64, error) {
	return func() (float64, error) {
		return cpuMicros(count, o.proc, func() error {
			for i := range count {
				if err := o.decide(f.input(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func (o *opaServer) stop() {
	o.proc.stop()
	_ = os.RemoveAll(o.dir) // scratch
	_ = os.RemoveAll(filepath.Dir(o.proc.log))
}

// sdkProgram is a Go program with OPA's SDK, which measures itself.
type sdkProgram struct {
	dir string
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (f *fleet) sdk(s size) (*sdkProgram, error) {
	if s == tiny {
		return nil, errTiny
	}
	program, err := build("opa-sdk", ".")
	if err != nil {
		return nil, err
	}
	dir, err := f.folder()
	if err != nil {
		return nil, err
	}
	p := &sdkProgram{dir: dir, cmd: exec.Command(program, "-dir", dir, "-path", "bench/decision")}
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := p.out.ReadString('\n'); err != nil || line != "ready\n" {
		p.stop()
		return nil, fmt.Errorf("the SDK's program said %q: %w", line, err)
	}
	for i := range 1000 {
		b, err := json.Marshal(f.input(i))
		if err == nil {
			_, err = fmt.Fprintf(p.in, "%s\n", b)
		}
		if err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

func (p *sdkProgram) decisions(count int) func() (float64, error) {
	return func() (float64, error) {
		if _, err := fmt.Fprintln(p.in, count); err != nil {
			return 0, err
		}
		line, err := p.out.ReadString('\n')
		if err != nil {
			return 0, errors.Join(errors.New("the SDK's program ended"), err)
		}
		return strconv.ParseFloat(strings.TrimSpace(line), 64)
	}
}

func (p *sdkProgram) stop() {
	_ = p.in.Close() // which ends it
	_ = p.cmd.Wait()
	_ = os.RemoveAll(p.dir) // scratch
}

// mergedQuery puts all levels into one OPA in this process.
func mergedQuery(ctx context.Context, levels []policy.Level, ask string) (rego.PreparedEvalQuery, error) {
	data := map[string]any{}
	options := []func(*rego.Rego){rego.Query(ask)}
	for _, l := range levels {
		maps.Copy(data, l.Data)
		for path, source := range l.Modules {
			if !strings.HasSuffix(path, "_test.rego") {
				options = append(options, rego.Module(l.Name+"/"+path, source))
			}
		}
	}
	options = append(options, rego.Store(inmem.NewFromObject(data)))
	return rego.New(options...).PrepareForEval(ctx)
}
