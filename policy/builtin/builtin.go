// Package builtin is the policy that ships with bailiwick, and the data of the dev fleet.
//
//	rego/global     what holds in every region; a file for each kind
//	rego/regional   connect and request: zero trust, grants in data.services
//	dev/*.json      laid over data.json of a level in `bailiwick dev`
//	examples/*      working trees of policy/workbench, to begin from
//
// The global level denies and lets nodes link; it opens no service. A region opens a service by
// adding its full name and the SPIFFE IDs of its callers to its data. The rules never need a
// change for that.
//
// The tests beside the rules run under go test, as do the check and the format of every module.
package builtin

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/policy"
)

//go:embed rego dev examples
var files embed.FS

// Working tells authors how to go on. It is for the end of a tree's README.
//
//go:embed working.md
var Working string

// Revision is that of the levels in this binary.
const Revision = "builtin-1"

// Global returns the shipped global level.
func Global() policy.Level {
	l := read(policy.Global)
	l.Required = true
	l.Delegation = policy.Delegation{All: true}
	return l
}

// Regional returns the shipped level of a region, which opens no service.
func Regional(region string) policy.Level {
	l := read(policy.Regional)
	l.Required = true
	l.Delegation = policy.Delegation{Kinds: []policy.Kind{policy.Connect, policy.HTTPRequest}, Regions: []string{region}}
	return l
}

// Dev returns the levels of a node of the dev fleet: software TPMs may do without secure boot,
// machines without a TPM may enrol, and the service web of region east may be called by the shops of both regions.
func Dev(region string) []policy.Level {
	g, r := Global(), Regional(region)
	overlay(g.Data, load("dev/global.json"))
	overlay(r.Data, load("dev/regional.json"))
	g.Revision, r.Revision = "dev-1", "dev-1"
	return []policy.Level{g, r}
}

// Examples are the names of the working trees to begin from, the plainest first.
var Examples = []string{"zero-trust", "regional-services", "residency", "canary", "break-glass"}

// Example returns a working tree of Examples. The files of its tree.json and data name the region
// east of the trust domain east.example.org.
func Example(name string) (fs.FS, error) {
	if !slices.Contains(Examples, name) {
		return nil, fmt.Errorf("there is no example %q; want one of %s", name, strings.Join(Examples, ", "))
	}
	return fs.Sub(files, "examples/"+name)
}

// Files returns the modules, tests and data.json of a shipped level, for tools that copy them.
func Files(level string) (fs.FS, error) {
	if level != policy.Global && level != policy.Regional {
		return nil, fmt.Errorf("%w: there is no shipped policy for level %q", policy.ErrLevel, level)
	}
	return fs.Sub(files, "rego/"+level)
}

// read panics on mistakes: what is embedded is right or no test passes.
func read(level string) policy.Level {
	dir, err := Files(level)
	if err != nil {
		panic(err)
	}
	l := policy.Level{Name: level, Revision: Revision, Modules: map[string]string{}, Data: load("rego/" + level + "/data.json")}
	err = fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(p) != ".rego" {
			return err
		}
		b, err := fs.ReadFile(dir, p)
		l.Modules[p] = string(b)
		return err
	})
	if err != nil {
		panic(err)
	}
	return l
}

func load(name string) map[string]any {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(err)
	}
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		panic(fmt.Errorf("%s: %w", name, err))
	}
	return m
}

// overlay puts src over dst; objects merge, everything else is replaced.
func overlay(dst, src map[string]any) {
	for k, v := range maps.All(src) {
		sub, ok := v.(map[string]any)
		old, was := dst[k].(map[string]any)
		if ok && was {
			overlay(old, sub)
			continue
		}
		dst[k] = v
	}
}
