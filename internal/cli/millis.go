package cli

import (
	"reflect"
	"time"
)

// millis is a time that is always printed with three fractional digits, as the API does; a time.Time has none to nine.
type millis time.Time

// MarshalJSON prints it in UTC.
func (m millis) MarshalJSON() ([]byte, error) {
	return []byte(time.Time(m).UTC().Format(`"2006-01-02T15:04:05.000Z"`)), nil
}

// withMillis returns v with every time.Time in it replaced by a millis. Structs in it that hold times must not hold
// themselves and must have exported fields only.
func withMillis(v any) any {
	from := reflect.ValueOf(v)
	if !from.IsValid() {
		return nil
	}
	to := reflect.New(millisType(from.Type())).Elem()
	copyMillis(to, from)
	return to.Interface()
}

// millisType is t with millis in place of time.Time, and t itself when it holds none.
func millisType(t reflect.Type) reflect.Type {
	if t == reflect.TypeFor[time.Time]() {
		return reflect.TypeFor[millis]()
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		elem := millisType(t.Elem())
		switch {
		case elem == t.Elem():
		case t.Kind() == reflect.Pointer:
			return reflect.PointerTo(elem)
		case t.Kind() == reflect.Slice:
			return reflect.SliceOf(elem)
		default:
			return reflect.MapOf(t.Key(), elem)
		}
	case reflect.Struct:
		changed := false
		fields := make([]reflect.StructField, t.NumField())
		for i := range fields {
			fields[i] = t.Field(i)
			fields[i].Type = millisType(fields[i].Type)
			changed = changed || fields[i].Type != t.Field(i).Type
		}
		if changed {
			return reflect.StructOf(fields)
		}
	}
	return t
}

// copyMillis sets to, which is of from's millisType.
func copyMillis(to, from reflect.Value) {
	switch {
	case to.Type() == from.Type():
		to.Set(from)
	case to.Type() == reflect.TypeFor[millis]():
		to.Set(from.Convert(to.Type()))
	case from.Kind() == reflect.Struct:
		for i := range from.NumField() {
			copyMillis(to.Field(i), from.Field(i))
		}
	case from.IsNil():
	case from.Kind() == reflect.Pointer:
		to.Set(reflect.New(to.Type().Elem()))
		copyMillis(to.Elem(), from.Elem())
	case from.Kind() == reflect.Slice:
		to.Set(reflect.MakeSlice(to.Type(), from.Len(), from.Len()))
		for i := range from.Len() {
			copyMillis(to.Index(i), from.Index(i))
		}
	case from.Kind() == reflect.Map:
		to.Set(reflect.MakeMapWithSize(to.Type(), from.Len()))
		for entries := from.MapRange(); entries.Next(); {
			value := reflect.New(to.Type().Elem()).Elem()
			copyMillis(value, entries.Value())
			to.SetMapIndex(entries.Key(), value)
		}
	}
}
