package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/bailiwick-mesh/bailiwick/attest/statement"
	"github.com/bailiwick-mesh/bailiwick/policy"
	"github.com/bailiwick-mesh/bailiwick/policy/jsonfile"
	"github.com/bailiwick-mesh/bailiwick/policy/schema"
)

// MaxContent is the largest content, in bytes: what package policy accepts, and some for paths.
const MaxContent = policy.MaxSource + policy.MaxData + 64<<10

var (
	// ErrContent means that bytes are no content, or not in its one spelling, or a folder holds
	// what cannot be part of a policy. The message names the file.
	ErrContent = errors.New("not the content of a policy")
	// ErrTooLarge means that a policy exceeds the limits of package policy.
	ErrTooLarge = errors.New("policy content is too large")
)

// Content is what a policy consists of.
type Content struct {
	Modules map[string]string // path of *.rego -> source
	Data    map[string]any
	Schemas map[string]string // path of schemas/*.json -> source, as package policy/schema reads it
}

type wireContent struct {
	Modules map[string]string `cbor:"1,keyasint"`
	Data    []byte            `cbor:"2,keyasint"`
	Schemas map[string]string `cbor:"3,keyasint,omitempty"`
}

// dataFile is where a folder keeps the data of a level.
const dataFile = policy.DataFile

// Pack reads the folder of one level: *.rego in it and below it, one data.json at its top, and
// schemas of state, *.json, in schemas/.
// Documentation (*.md), LICENSE files and names that begin with a dot are left out; anything else
// is refused, so that nothing an author wrote is lost without a word.
func Pack(dir string) ([]byte, error) {
	root, err := os.OpenRoot(dir) // links that lead out of the folder are not followed
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return PackFS(root.FS())
}

// PackFS is Pack for a file system.
func PackFS(fsys fs.FS) ([]byte, error) {
	c := Content{Modules: map[string]string{}, Schemas: map[string]string{}}
	left := int64(MaxContent)
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		base := path.Base(p)
		isSchema := strings.HasPrefix(p, policy.SchemaDir) && path.Ext(p) == ".json"
		switch {
		case err != nil:
			return err
		case p == ".":
			return nil
		case strings.HasPrefix(base, "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir(), path.Ext(p) == ".md", base == "LICENSE":
			return nil
		case p != dataFile && base == dataFile && !isSchema:
			return fmt.Errorf("%w: %s: data lives in one %s at the top; move its keys there", ErrContent, p, dataFile)
		case p != dataFile && path.Ext(p) != ".rego" && !isSchema:
			return fmt.Errorf("%w: %s is neither *.rego nor %s nor %s*.json", ErrContent, p, dataFile, policy.SchemaDir)
		}
		info, err := fs.Stat(fsys, p)
		if err != nil {
			return fmt.Errorf("%w: %s cannot be read; links may lead to files of the folder only: %w", ErrContent, p, err)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%w: %s is neither a file nor a folder", ErrContent, p)
		}
		f, err := fsys.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, left+1))
		if err != nil {
			return err
		}
		if left -= int64(len(b)); left < 0 {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxContent)
		}
		switch {
		case isSchema:
			c.Schemas[p] = string(b)
		case p != dataFile:
			c.Modules[p] = string(b)
		default:
			if err = jsonfile.Once(b); err == nil {
				c.Data, err = jsonfile.Object(b)
			}
			if err != nil {
				err = fmt.Errorf("%w: %w", ErrContent, jsonfile.In(dataFile, err))
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.Encode()
}

// Encode returns the one spelling of a content. Errors wrap ErrContent or ErrTooLarge.
func (c Content) Encode() ([]byte, error) {
	modules, data := c.Modules, c.Data
	source := 0
	for _, files := range []struct {
		sources map[string]string
		ok      func(p string) bool
		want    string
	}{
		{modules, func(p string) bool { return path.Ext(p) == ".rego" }, "a clean relative path ending in .rego"},
		{c.Schemas, func(p string) bool { return strings.HasPrefix(p, policy.SchemaDir) && path.Ext(p) == ".json" }, "a clean path below " + policy.SchemaDir + " ending in .json"},
	} {
		for p, src := range files.sources {
			source += len(src)
			switch {
			case len(p) > 256 || path.Clean(p) != p || path.IsAbs(p) || strings.HasPrefix(p, "..") || !files.ok(p) || !utf8.ValidString(p):
				return nil, fmt.Errorf("%w: path %q, want %s", ErrContent, p, files.want)
			case !utf8.ValidString(src):
				return nil, fmt.Errorf("%w: %s is not UTF-8", ErrContent, p)
			}
		}
	}
	if data == nil {
		data = map[string]any{}
	}
	js, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("%w: data: %v", ErrContent, err)
	}
	switch {
	case len(modules) > policy.MaxModules:
		return nil, fmt.Errorf("%w: %d modules, at most %d", ErrTooLarge, len(modules), policy.MaxModules)
	case len(c.Schemas) > schema.MaxFiles:
		return nil, fmt.Errorf("%w: %d schemas, at most %d", ErrTooLarge, len(c.Schemas), schema.MaxFiles)
	case source > policy.MaxSource:
		return nil, fmt.Errorf("%w: %d bytes of Rego and schemas, at most %d", ErrTooLarge, source, policy.MaxSource)
	case len(js) > policy.MaxData:
		return nil, fmt.Errorf("%w: %d bytes of data, at most %d", ErrTooLarge, len(js), policy.MaxData)
	}
	if modules == nil {
		modules = map[string]string{}
	}
	return statement.Marshal(wireContent{modules, js, c.Schemas})
}

// Unpack returns what Encode was given. Errors wrap ErrContent or ErrTooLarge.
func Unpack(b []byte) (c Content, err error) {
	if len(b) > MaxContent {
		return c, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxContent)
	}
	var w wireContent
	if err := statement.Unmarshal(b, &w); err != nil {
		return c, fmt.Errorf("%w: %w", ErrContent, err)
	}
	c = Content{Modules: w.Modules, Schemas: w.Schemas}
	if c.Data, err = jsonfile.Object(w.Data); err != nil {
		return Content{}, fmt.Errorf("%w: %s: %w", ErrContent, dataFile, err)
	}
	again, err := c.Encode()
	if err != nil {
		return Content{}, err
	}
	if !bytes.Equal(again, b) {
		return Content{}, fmt.Errorf("%w: not in its one spelling", ErrContent)
	}
	return c, nil
}
