# SPDX-License-Identifier: Apache-2.0
# Fails the build if a library needs a symbol version of glibc above NEWEST.
# cmake -DOBJDUMP=... -DLIBRARY=... -DNEWEST=2.17 -P check_glibc.cmake
execute_process(COMMAND ${OBJDUMP} -T ${LIBRARY} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "\n" ";" symbols "${symbols}")
foreach(symbol IN LISTS symbols)
    if(symbol MATCHES "GLIBC_([0-9.]+)" AND CMAKE_MATCH_1 VERSION_GREATER NEWEST)
        string(STRIP "${symbol}" symbol)
        list(APPEND newer "${symbol}")
    endif()
endforeach()
if(newer)
    string(REPLACE ";" "\n  " newer "${newer}")
    file(REMOVE ${LIBRARY}) # otherwise the next build would take it for done
    message(FATAL_ERROR "${LIBRARY} needs symbols newer than GLIBC_${NEWEST}:\n  ${newer}")
endif()
