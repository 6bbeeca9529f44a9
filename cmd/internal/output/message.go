package output

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Message encodes a protobuf message as it stands in a Document: every field,
// set or not, under its name in the .proto; times as RFC 3339; bytes in base64.
// Unlike protobuf's own JSON mapping it writes 64-bit numbers as numbers: none
// of ours reaches 2^53, and scripts compare them.
func Message(m proto.Message) (json.RawMessage, error) {
	return json.Marshal(object(m.ProtoReflect()))
}

func object(m protoreflect.Message) any {
	if t, ok := m.Interface().(*timestamppb.Timestamp); ok {
		if !m.IsValid() {
			return nil
		}
		return t.AsTime().Format(time.RFC3339Nano)
	}
	if !m.IsValid() {
		return nil
	}
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		v := m.Get(f)
		switch {
		case f.IsMap():
			entries := map[string]any{}
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				entries[fmt.Sprint(k.Interface())] = value(f.MapValue(), e)
				return true
			})
			out[string(f.Name())] = entries
		case f.IsList():
			list := make([]any, v.List().Len())
			for j := range list {
				list[j] = value(f, v.List().Get(j))
			}
			out[string(f.Name())] = list
		default:
			out[string(f.Name())] = value(f, v)
		}
	}
	return out
}

func value(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return object(v.Message())
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes())
	}
	return v.Interface()
}
