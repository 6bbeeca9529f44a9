package workbench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/attest/bounded"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
	"github.com/bailiwick-mesh/bailiwick/policy/bundle"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
)

// ErrTree means that a path leads to no policy: it cannot be read, is no signed policy file, or is a
// folder with no level in it or with a tree.json that is wrong. The message names the file.
var ErrTree = errors.New("not a working tree of policy")

// LevelNames are the levels a tree may have, in order of precedence.
var LevelNames = []string{policy.Global, policy.Regional, policy.Local}

// PlanFile says for whom a tree is; it stays with the author.
const PlanFile = "tree.json"

// maxPlan is the largest tree.json, in bytes.
const maxPlan = 1 << 20

// Plan is tree.json. Its delegations stand for the signed ones that a node would see, so that the
// tools can tell which allows count.
type Plan struct {
	Region      string             `json:"region"`       // short label, such as "east"
	TrustDomain string             `json:"trust_domain"` // of the region
	Delegations map[string]Ceiling `json:"delegations,omitempty"`
}

// Ceiling is what the level above lets a level allow. Absent lists are those of a fresh region:
// connects and requests, of the tree's region, to every service.
type Ceiling struct {
	Kinds    []policy.Kind `json:"kinds,omitempty"`
	Regions  []string      `json:"regions,omitempty"`
	Services []string      `json:"services,omitempty"`
}

// Tree is what Open read.
type Tree struct {
	Dir    string // or the signed file
	Plan   Plan
	Signed bool    // nothing in it can be changed
	Levels []Level // in order of precedence, the shipped global level among them
}

// Level is one level of a tree.
type Level struct {
	policy.Level
	Dir string // where it is written; empty for the one that ships
}

// Shipped reports whether the level is that of this version, and nobody's to change here.
func (l Level) Shipped() bool { return l.Dir == "" }

// Open reads a working tree, the folder of one level, or a signed policy file, whose signature it
// does not verify. It compiles nothing. Errors wrap ErrTree or, of a folder, bundle.ErrContent or
// bundle.ErrTooLarge.
func Open(path string) (*Tree, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.IsDir() {
		if filepath.Ext(path) == ".rego" {
			return nil, fmt.Errorf("%w: %s is one module of a policy; name the folder it is in, or the tree: %s", ErrTree, path, treeAbove(path))
		}
		t, err := openSigned(path)
		if err != nil {
			return nil, unreadable(path, err)
		}
		return t, nil
	}
	t := &Tree{Dir: path}
	dirs, err := levelDirs(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if len(dirs) > 0 {
		t.Plan, err = readPlan(path)
	} else {
		if err := oneTree(path); err != nil {
			return nil, err
		}
		var name string
		if name, err = LevelOf(path); err != nil {
			return nil, err
		}
		dirs = map[string]string{name: path}
		t.Plan, err = readPlan(filepath.Join(path, ".."))
	}
	if err != nil {
		return nil, err
	}
	var errs []error
	levels := map[string]Level{}
	for _, name := range LevelNames {
		if dir := dirs[name]; dir != "" {
			levels[name], err = t.read(name, dir)
			errs = append(errs, err)
		}
	}
	t.complete(levels)
	return t, errors.Join(errs...)
}

// maxNamed is how many trees are named where one was meant.
const maxNamed = 8

// oneTree refuses a folder that has trees in it: which one is meant is for the author to say.
func oneTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return unreadable(dir, err)
	}
	var trees []string
	for _, e := range entries {
		below := filepath.Join(dir, e.Name())
		if filepath.Ext(e.Name()) == ".rego" {
			return nil // the folder of a level
		}
		if levels, err := levelDirs(below); e.IsDir() && err == nil && len(levels) > 0 {
			trees = append(trees, below)
		}
	}
	if len(trees) == 0 {
		return nil
	}
	more := ""
	if len(trees) > maxNamed {
		trees, more = trees[:maxNamed], fmt.Sprintf(" and %d more", len(trees)-maxNamed)
	}
	return fmt.Errorf("%w: %s is no tree and has trees in it; name one: %s%s", ErrTree, dir, strings.Join(trees, ", "), more)
}

// treeAbove is the nearest folder above a module that has a tree.json, or the module's own.
func treeAbove(module string) string {
	for dir, n := filepath.Dir(module), 0; n < 4; dir, n = filepath.Dir(dir), n+1 {
		if _, err := os.Stat(filepath.Join(dir, PlanFile)); err == nil {
			return dir
		}
	}
	return filepath.Dir(module)
}

// complete takes over the levels that were written. The global one that ships stands in for another.
func (t *Tree) complete(written map[string]Level) {
	for _, name := range LevelNames {
		if l, ok := written[name]; ok {
			t.Levels = append(t.Levels, l)
		} else if name == policy.Global {
			t.Levels = append(t.Levels, Level{Level: builtin.Global()})
		}
	}
}

func levelDirs(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	dirs := map[string]string{}
	for _, e := range entries {
		if e.IsDir() && slices.Contains(LevelNames, e.Name()) {
			dirs[e.Name()] = filepath.Join(dir, e.Name())
		}
	}
	return dirs, nil
}

func (t *Tree) read(name, dir string) (Level, error) {
	packed, err := bundle.Pack(dir)
	if err != nil {
		return Level{}, fmt.Errorf("%s: %w", dir, err)
	}
	c, err := bundle.Unpack(packed)
	if err != nil {
		return Level{}, fmt.Errorf("%s: %w", dir, err)
	}
	l := Level{Dir: dir, Level: policy.Level{Name: name, Revision: "tree", Modules: c.Modules, Data: c.Data, Schemas: c.Schemas}}
	if name == policy.Global {
		l.Delegation = policy.Delegation{All: true}
	} else {
		l.Delegation = t.delegation(name)
	}
	return l, nil
}

// delegation fills in what the plan leaves out, as a region's first delegation does.
func (t *Tree) delegation(name string) policy.Delegation {
	c := t.Plan.Delegations[name]
	d := policy.Delegation{Kinds: c.Kinds, Regions: c.Regions, Services: c.Services}
	if d.Kinds == nil {
		d.Kinds = []policy.Kind{policy.Connect, policy.HTTPRequest}
	}
	if d.Regions == nil && t.Plan.Region != "" {
		d.Regions = []string{t.Plan.Region}
	}
	return d
}

var packageLine = regexp.MustCompile(`(?m)^package\s+bailiwick\.(global|regional|local)\b`)

// LevelOf finds which level a folder of modules is, also where they do not parse. Errors wrap
// ErrTree, where it is none or more than one, or are those of the file system.
func LevelOf(dir string) (string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(p) != ".rego" {
			return err
		}
		b, err := bounded.ReadFile(p, policy.MaxSource)
		if m := packageLine.FindSubmatch(b); m != nil {
			found[string(m[1])] = p
		}
		return err
	})
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("%w: %s has no folder global, regional or local, and no module of package bailiwick.<level>.<kind>; bailiwick policy init DIR makes a tree", ErrTree, dir)
	case len(found) > 1:
		return "", fmt.Errorf("%w: %s mixes levels: %s; give each level a folder of its name", ErrTree, dir, listed(found))
	}
	for name := range found {
		return name, nil
	}
	panic("unreachable")
}

func listed(found map[string]string) string {
	var parts []string
	for _, name := range LevelNames {
		if p := found[name]; p != "" {
			parts = append(parts, name+" in "+p)
		}
	}
	return strings.Join(parts, ", ")
}

func readPlan(dir string) (p Plan, err error) {
	path := filepath.Join(dir, PlanFile)
	b, err := bounded.ReadFile(path, maxPlan)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	return parsePlan(path, b)
}

func parsePlan(path string, b []byte) (p Plan, err error) {
	if err := jsonfile.Decode(b, &p); err != nil {
		return p, fmt.Errorf("%w: %w", ErrTree, jsonfile.In(path, err))
	}
	at := func(name, field, format string, args ...any) error {
		names := []string{"delegations", name}
		if field != "" {
			names = append(names, field)
		}
		return fmt.Errorf("%w: %w", ErrTree, jsonfile.In(path, jsonfile.At(b, names, strings.Join(names, ".")+": "+fmt.Sprintf(format, args...))))
	}
	for name, c := range p.Delegations {
		if name != policy.Regional && name != policy.Local {
			return p, at(name, "", "no such level is delegated; want regional or local")
		}
		for _, k := range c.Kinds {
			if !slices.Contains(policy.Kinds, k) {
				return p, at(name, "kinds", "%q is not one of %v", k, policy.Kinds)
			}
		}
	}
	return p, nil
}

// Written returns the levels that are the author's own.
func (t *Tree) Written() (out []Level) {
	for _, l := range t.Levels {
		if !l.Shipped() {
			out = append(out, l)
		}
	}
	return out
}

// Path turns the name that package policy gives a module, level/path, into the path of its file.
// The modules that ship have none and keep their name.
func (t *Tree) Path(file string) string {
	level, rest, _ := strings.Cut(file, "/")
	for _, l := range t.Levels {
		if l.Name == level && !l.Shipped() {
			return filepath.Join(l.Dir, filepath.FromSlash(rest))
		}
	}
	return file
}
