// Command protogen compiles the project's .proto files and runs the pinned Go
// plugins over them, so that generating needs neither protoc nor buf.
//
//	go -C .ci/tools run ./protogen ROOT
//
// Every .proto below ROOT is compiled; its Go files land beside it.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protogen ROOT")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(root string) error {
	files, err := protoFiles(root)
	if err != nil {
		return err
	}
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	compiled, err := compiler.Compile(context.Background(), files...)
	if err != nil {
		return err
	}
	req := &pluginpb.CodeGeneratorRequest{}
	seen := map[string]bool{}
	for _, f := range compiled {
		req.ProtoFile = appendWithImports(req.ProtoFile, f, seen)
	}
	for _, plugin := range []struct {
		name, parameter string
		wants           func(*descriptorpb.FileDescriptorProto) bool
	}{
		{"protoc-gen-go", "paths=source_relative", func(*descriptorpb.FileDescriptorProto) bool { return true }},
		{"protoc-gen-connect-go", "paths=source_relative,simple=true,package_suffix", isLocal},
		{"protoc-gen-go-grpc", "paths=source_relative", func(f *descriptorpb.FileDescriptorProto) bool { return !isLocal(f) }},
	} {
		req.Parameter = proto.String(plugin.parameter)
		req.FileToGenerate = nil
		for _, f := range req.ProtoFile {
			if plugin.wants(f) && slices.Contains(files, f.GetName()) {
				req.FileToGenerate = append(req.FileToGenerate, f.GetName())
			}
		}
		if err := generate(root, plugin.name, req); err != nil {
			return fmt.Errorf("%s: %w", plugin.name, err)
		}
	}
	return nil
}

// isLocal tells the APIs for local programs, which speak Connect, from what rides
// on SPIRE's gRPC server.
func isLocal(f *descriptorpb.FileDescriptorProto) bool {
	return strings.HasPrefix(f.GetPackage(), "bailiwick.control.") || strings.HasPrefix(f.GetPackage(), "bailiwick.state.")
}

func protoFiles(root string) (files []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".proto") {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files = append(files, rel)
		}
		return nil
	})
	return files, err
}

func appendWithImports(out []*descriptorpb.FileDescriptorProto, f protoreflect.FileDescriptor, seen map[string]bool) []*descriptorpb.FileDescriptorProto {
	if seen[f.Path()] {
		return out
	}
	seen[f.Path()] = true
	imports := f.Imports()
	for i := range imports.Len() {
		out = appendWithImports(out, imports.Get(i).FileDescriptor, seen)
	}
	return append(out, protodesc.ToFileDescriptorProto(f))
}

func generate(root, plugin string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &resp); err != nil {
		return err
	}
	if resp.Error != nil {
		return errors.New(resp.GetError())
	}
	for _, f := range resp.File {
		if err := os.WriteFile(filepath.Join(root, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
