package workbench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bailiwick-mesh/bailiwick/policy/builtin"
)

// ErrNotEmpty means that a folder for a new tree has something in it. Nothing was written: name
// another folder.
var ErrNotEmpty = errors.New("the folder is not empty")

// exampleRegion and exampleDomain stand for the author's own in the examples.
const (
	exampleRegion = "east"
	exampleDomain = "east.example.org"
)

// Init writes a working tree to begin from into a folder that is empty or not there: an example of
// builtin.Examples, for a region and its trust domain. It returns the files, by path. Tests of the
// new tree pass as they are.
func Init(dir, name, region, domain string) (written []string, err error) {
	files, err := builtin.Example(name)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return nil, fmt.Errorf("%w: %s has %s in it", ErrNotEmpty, dir, entries[0].Name())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	own := strings.NewReplacer(exampleDomain, domain, `"`+exampleRegion+`"`, `"`+region+`"`, "."+exampleRegion+`"`, "."+region+`"`)
	err = fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.FromSlash(p))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := fs.ReadFile(files, p)
		if err != nil {
			return err
		}
		if p == "README.md" {
			b = append(b, builtin.Working...)
		}
		written = append(written, to)
		return os.WriteFile(to, []byte(own.Replace(string(b))), 0o644)
	})
	return written, err
}
