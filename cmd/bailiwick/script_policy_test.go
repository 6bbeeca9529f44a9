package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bailiwick-mesh/bailiwick/attest/keyfile"
	"github.com/bailiwick-mesh/bailiwick/cmd/internal/provision"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
)

func cmdPolicy(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "policy global|REGION DIR")
	home, dir := fleet(ts).Dir, ts.MkAbs(args[1])
	level, file, keyFile := builtin.Dev("east")[0], filepath.Join(home, "global", "global.policy"), filepath.Join(home, "global", "global.key.pem")
	if args[0] != "global" {
		region := filepath.Join(home, "regions", args[0])
		level, file, keyFile = builtin.Dev(args[0])[1], filepath.Join(region, "region.policy"), filepath.Join(region, "policy.key.pem")
	}
	b, err := os.ReadFile(file)
	ts.Check(err)
	signed, _, err := bundle.Split(b)
	ts.Check(err)
	old, err := bundle.ReadRecord(signed)
	ts.Check(err)
	key, err := keyfile.Open(keyFile)
	ts.Check(err)

	if b, err := os.ReadFile(filepath.Join(dir, "data.json")); err == nil {
		var over map[string]any
		ts.Check(json.Unmarshal(b, &over))
		lay(level.Data, over)
	} else if !errors.Is(err, fs.ErrNotExist) {
		ts.Check(err)
	}
	content := bundle.Content{Modules: level.Modules, Data: level.Data, Schemas: map[string]string{}}
	schemas, err := filepath.Glob(filepath.Join(dir, "schemas", "*.json"))
	ts.Check(err)
	for _, path := range schemas {
		b, err := os.ReadFile(path)
		ts.Check(err)
		content.Schemas["schemas/"+filepath.Base(path)] = string(b)
	}
	modules, err := filepath.Glob(filepath.Join(dir, "*.rego"))
	ts.Check(err)
	for _, path := range modules {
		b, err := os.ReadFile(path)
		ts.Check(err)
		content.Modules[filepath.Base(path)] = string(b)
	}
	packed, err := content.Encode()
	ts.Check(err)
	next, err := provision.Policy{
		Level: old.Level, Scope: old.Scope, Version: old.Version + 1, Author: old.Author, Change: "script", Content: packed,
		Delegations: old.Delegations, Parent: old.Parent,
	}.Sign(key, provision.ValidFor(time.Hour))
	ts.Check(err)
	ts.Check(provision.WriteFile(file, next, 0o600))
}

// lay puts objects over objects and replaces all else.
func lay(under, over map[string]any) {
	for k, v := range over {
		below, is := under[k].(map[string]any)
		if above, both := v.(map[string]any); is && both {
			lay(below, above)
			continue
		}
		under[k] = v
	}
}
